//! The process: one thread that answers one request after the other, none of which blocks.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno as HostErrno,
    net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, ipproto},
};

use super::{
    frame,
    options::{self, Access},
    protocol::{
        Done, Family, Kind, MAX_FRAME, MAX_STEPS, MAX_VALUE, NOWHERE, OptionName, Reply, Request,
        Step,
    },
    sys,
    view::Watch,
};
use crate::{
    protocol::Errno,
    server::{Error, setup},
};

/// What root's network Gofer keeps: it decides nothing about low ports, the Sentry does.
const KEPT: [caps::Capability; 1] = [caps::Capability::CAP_NET_BIND_SERVICE];

/// Refusals told in the log before it only counts them: a hostile Sentry could make a lot.
const MAX_TOLD: u32 = 100;

/// Least time between two notices that the view has changed.
const PAUSE: Duration = Duration::from_millis(20);

/// The process's connections.
#[derive(Debug)]
pub struct Channels {
    pub requests: OwnedFd,
    /// A byte goes there when the namespace's view has changed.
    pub changes: OwnedFd,
}

/// The whole life of a network Gofer: gives up all it does not need, then serves until the
/// client's ends are closed.
///
/// The caller is the only thread of a process that is in the network namespace to serve, and in a
/// mount namespace of its own with `CAP_SYS_ADMIN` over it.
///
/// # Errors
/// A step of the set-up failed; the process should end.
pub fn run(channels: &Channels) -> Result<(), Error> {
    runsc_platform::process::release_start_up_memory();
    setup::process()?;
    let watch = Watch::new().map_err(setup::stage("route netlink", ""))?;
    setup::empty_root()?;
    setup::become_nobody()?;
    setup::privileges(&KEPT)?;
    super::filter().install()?;
    serve(channels, watch);
    Ok(())
}

/// Serves from a thread of this process, with its privileges and in its namespace: for tests.
///
/// # Errors
/// There is no route netlink.
pub fn spawn_unconfined(channels: Channels) -> std::io::Result<std::thread::JoinHandle<()>> {
    let watch = Watch::new()?;
    Ok(std::thread::spawn(move || serve(&channels, watch)))
}

fn serve(channels: &Channels, mut watch: Watch) {
    let mut server = Server {
        request: vec![0; MAX_FRAME],
        reply: vec![0; MAX_FRAME],
        refusals: 0,
    };
    let mut told: Option<Instant> = None;
    loop {
        // Neighbours can make others see changes as fast as they like: those wait together.
        let rest = told.and_then(|at| PAUSE.checked_sub(at.elapsed()));
        let mut fds = [
            PollFd::new(&channels.requests, PollFlags::IN),
            PollFd::from_borrowed_fd(watch.changes(), PollFlags::IN),
        ];
        let watched = if rest.is_some() { 1 } else { 2 };
        let timeout = rest.map(|rest| Timespec {
            tv_sec: 0,
            tv_nsec: rest.subsec_nanos().into(),
        });
        match rustix::event::poll(fds.get_mut(..watched).unwrap_or_default(), timeout.as_ref()) {
            Ok(_) | Err(HostErrno::INTR) => {}
            Err(_) => return,
        }
        let [asked, changed] = fds.map(|fd| !fd.revents().is_empty());
        if changed {
            told = Some(Instant::now());
            watch.clear_changes();
            // Full: the last one is not read yet, and stands for this one too.
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let _ = rustix::net::send(&channels.changes, &[0], flags);
        }
        if asked && server.turn(channels.requests.as_fd(), &mut watch).is_none() {
            return;
        }
    }
}

struct Server {
    request: Vec<u8>,
    reply: Vec<u8>,
    refusals: u32,
}

impl Server {
    /// Answers one request; `None` when the client is gone.
    fn turn(&mut self, channel: BorrowedFd<'_>, watch: &mut Watch) -> Option<()> {
        let received = frame::receive(channel, &mut self.request).ok()?;
        let whole = self.request.get(..received.length);
        let frame = whole.filter(|_| !received.cut);
        let socket = received.fd;
        let request = frame.and_then(|frame| match postcard::take_from_bytes(frame) {
            Ok((request, [])) => Some(request),
            _ => None,
        });
        let (reply, socket) = match request {
            Some(Request::Socket { make, steps }) => self.socket(make, socket, &steps),
            Some(Request::View) => match watch.view() {
                Ok(view) => (Reply::View(view), None),
                Err(errno) => (Reply::Failed(errno.into()), None),
            },
            None => (Reply::Failed(Errno(libc::EBADMSG)), None),
        };
        if let Reply::Failed(errno) = reply {
            self.refused(&errno.to_string());
        }
        let length = match postcard::to_slice(&reply, &mut self.reply) {
            Ok(used) => used.len(),
            Err(_) => {
                let refusal = Reply::Failed(Errno(libc::EMSGSIZE));
                postcard::to_slice(&refusal, &mut self.reply).ok()?.len()
            }
        };
        match frame::send(
            channel,
            self.reply.get(..length)?,
            socket.as_ref().map(AsFd::as_fd),
        ) {
            // The user has too many fds under way.
            Err(HostErrno::TOOMANYREFS) => {
                let refusal = Reply::Failed(Errno(libc::ETOOMANYREFS));
                let frame = postcard::to_slice(&refusal, &mut self.reply).ok()?;
                frame::send(channel, frame, None).ok()
            }
            sent => sent.ok(),
        }
    }

    fn refused(&mut self, what: &str) {
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals <= MAX_TOLD {
            log::warn!("refused: {what}");
        }
    }

    /// The reply, with the socket if it is a new one.
    fn socket(
        &mut self,
        make: Option<(Family, Kind)>,
        given: Option<OwnedFd>,
        steps: &[Step],
    ) -> (Reply, Option<OwnedFd>) {
        let failed = |errno: i32| (Reply::Failed(Errno(errno)), None);
        if steps.len() > MAX_STEPS {
            return failed(libc::E2BIG);
        }
        let (socket, is_new) = match (make, given) {
            (Some((family, kind)), None) => match new_socket(family, kind) {
                Ok(socket) => (socket, true),
                Err(errno) => return (Reply::Failed(errno.into()), None),
            },
            (None, Some(socket)) if is_ours(socket.as_fd()) => (socket, false),
            _ => return failed(libc::EINVAL),
        };
        let mut done = Done {
            steps: 0,
            failed: None,
            values: Vec::new(),
            local: NOWHERE,
        };
        for step in steps {
            match self.step(socket.as_fd(), step) {
                Ok(value) => done.values.extend(value),
                Err(errno) => {
                    done.failed = Some(errno);
                    break;
                }
            }
            done.steps += 1;
        }
        if let Ok(Ok(local)) = rustix::net::getsockname(&socket).map(SocketAddr::try_from) {
            done.local = local.into();
        }
        (Reply::Socket(done), is_new.then_some(socket))
    }

    fn step(&mut self, socket: BorrowedFd<'_>, step: &Step) -> Result<Option<Vec<u8>>, Errno> {
        match step {
            Step::Set(option, value) => {
                let permitted = options::access(*option) == Some(Access::Both);
                if !permitted || value.len() > MAX_VALUE {
                    return Err(self.refuse_option("set", *option));
                }
                sys::set_option(socket, *option, value)?;
            }
            Step::Get(option, room) => {
                if options::access(*option).is_none() {
                    return Err(self.refuse_option("read", *option));
                }
                return Ok(Some(sys::option(socket, *option, *room)?));
            }
            Step::Bind(endpoint) => rustix::net::bind(socket, &SocketAddr::from(*endpoint))?,
            Step::Connect(endpoint) => rustix::net::connect(socket, &SocketAddr::from(*endpoint))?,
            Step::Disconnect => rustix::net::connect_unspec(socket)?,
            Step::Listen(backlog) => rustix::net::listen(socket, *backlog)?,
        }
        Ok(None)
    }

    fn refuse_option(&mut self, verb: &str, option: OptionName) -> Errno {
        self.refused(&format!(
            "to {verb} socket option {} of level {}",
            option.name, option.level
        ));
        Errno(libc::ENOPROTOOPT)
    }
}

fn new_socket(family: Family, kind: Kind) -> rustix::io::Result<OwnedFd> {
    let domain = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let (socket_type, protocol): (SocketType, Protocol) = match (kind, family) {
        (Kind::Tcp, _) => (SocketType::STREAM, ipproto::TCP),
        (Kind::Udp, _) => (SocketType::DGRAM, ipproto::UDP),
        (Kind::Ping, Family::V4) => (SocketType::DGRAM, ipproto::ICMP),
        (Kind::Ping, Family::V6) => (SocketType::DGRAM, ipproto::ICMPV6),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(domain, socket_type, flags, Some(protocol))
}

/// Whether a socket that came along is of a kind that is made here. Whatever else the Sentry has
/// got (its own channels, say) it is not helped with.
fn is_ours(socket: BorrowedFd<'_>) -> bool {
    let family = rustix::net::sockopt::socket_domain(socket);
    let protocol = rustix::net::sockopt::socket_protocol(socket);
    matches!(family, Ok(AddressFamily::INET | AddressFamily::INET6))
        && matches!(
            protocol,
            Ok(Some(
                ipproto::TCP | ipproto::UDP | ipproto::ICMP | ipproto::ICMPV6
            ))
        )
}
