//! The fields of a configuration, a configuration that has them, and what becomes of them.
//!
//! `[]` stands for a list's entry, `*` for a map's value.

use serde_json::{Value, json};

use super::Outcome::{self, Effect, Refused, Used, Warned};

/// Fields, what is put over the minimal configuration, and the outcome of each.
pub type Row = (&'static [&'static str], Value, Outcome);

pub fn table() -> Vec<Row> {
    let mut rows = whole();
    rows.extend(linux());
    rows.extend(resources());
    rows
}

/// All but `linux`.
fn whole() -> Vec<Row> {
    vec![
        (
            &["ociVersion"],
            json!({"ociVersion": "2.0.0"}),
            Refused("ociVersion: \"2.0.0\""),
        ),
        (&["root.path"], json!({"root": {"path": "other"}}), Effect),
        (
            &["root.readonly"],
            json!({"root": {"readonly": true}}),
            Effect,
        ),
        (
            &[
                "mounts[].destination",
                "mounts[].source",
                "mounts[].options[]",
            ],
            json!({"mounts": [{"destination": "/mnt", "type": "bind", "source": "other", "options": ["bind", "ro"]}]}),
            Effect,
        ),
        (
            &["mounts[].type"],
            json!({"mounts": [{"destination": "/mnt", "type": "tmpfs"}]}),
            Effect,
        ),
        (
            &[
                "mounts[].uidMappings[].hostID",
                "mounts[].uidMappings[].containerID",
                "mounts[].uidMappings[].size",
            ],
            json!({"mounts": [{"destination": "/mnt", "type": "bind", "source": "other", "options": ["bind"], "uidMappings": [{"hostID": 1, "containerID": 0, "size": 1}]}]}),
            Refused("mounts[0]: uidMappings, gidMappings: not supported"),
        ),
        (
            &[
                "mounts[].gidMappings[].hostID",
                "mounts[].gidMappings[].containerID",
                "mounts[].gidMappings[].size",
            ],
            json!({"mounts": [{"destination": "/mnt", "type": "bind", "source": "other", "options": ["bind"], "gidMappings": [{"hostID": 1, "containerID": 0, "size": 1}]}]}),
            Refused("mounts[0]: uidMappings, gidMappings: not supported"),
        ),
        (
            &["process.terminal"],
            json!({"process": {"terminal": true}}),
            Effect,
        ),
        (
            &["process.args[]"],
            json!({"process": {"args": ["/bin/false"]}}),
            Effect,
        ),
        (
            &["process.env[]"],
            json!({"process": {"env": ["A=b"]}}),
            Effect,
        ),
        (
            &["process.cwd"],
            json!({"process": {"cwd": "/tmp"}}),
            Effect,
        ),
        (
            &["process.noNewPrivileges"],
            json!({"process": {"noNewPrivileges": true}}),
            Effect,
        ),
        (
            &["process.oomScoreAdj"],
            json!({"process": {"oomScoreAdj": 7}}),
            Effect,
        ),
        (
            &["process.apparmorProfile"],
            json!({"process": {"apparmorProfile": "docker-default"}}),
            Warned("process.apparmorProfile"),
        ),
        (
            &["process.selinuxLabel"],
            json!({"process": {"selinuxLabel": "a:b:c"}}),
            Warned("process.selinuxLabel"),
        ),
        (
            &["process.commandLine"],
            json!({"process": {"commandLine": "cmd /c"}}),
            Warned("process.commandLine (not for Linux)"),
        ),
        (
            &["process.consoleSize.height", "process.consoleSize.width"],
            json!({"process": {"consoleSize": {"height": 24, "width": 80}}}),
            Used("container/mod.rs"),
        ),
        (
            &["process.user.uid"],
            json!({"process": {"user": {"uid": 3}}}),
            Effect,
        ),
        (
            &["process.user.gid"],
            json!({"process": {"user": {"gid": 4}}}),
            Effect,
        ),
        (
            &["process.user.umask"],
            json!({"process": {"user": {"umask": 63}}}),
            Effect,
        ),
        (
            &["process.user.additionalGids[]"],
            json!({"process": {"user": {"additionalGids": [5]}}}),
            Effect,
        ),
        (
            &["process.user.username"],
            json!({"process": {"user": {"username": "me"}}}),
            Warned("process.user.username (not for Linux)"),
        ),
        (
            &[
                "process.capabilities.bounding[]",
                "process.capabilities.effective[]",
                "process.capabilities.inheritable[]",
                "process.capabilities.permitted[]",
                "process.capabilities.ambient[]",
            ],
            json!({"process": {"capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}}}),
            Effect,
        ),
        (
            &[
                "process.rlimits[].type",
                "process.rlimits[].hard",
                "process.rlimits[].soft",
            ],
            json!({"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 2}]}}),
            Effect,
        ),
        (
            &["process.ioPriority.class", "process.ioPriority.priority"],
            json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3}}}),
            Warned("process.ioPriority"),
        ),
        (
            &[
                "process.scheduler.policy",
                "process.scheduler.nice",
                "process.scheduler.priority",
                "process.scheduler.flags[]",
                "process.scheduler.runtime",
                "process.scheduler.deadline",
                "process.scheduler.period",
            ],
            json!({"process": {"scheduler": {"policy": "SCHED_OTHER", "nice": 3}}}),
            Warned("process.scheduler"),
        ),
        (
            &["process.execCPUAffinity.initial"],
            json!({"process": {"execCPUAffinity": {"initial": "0"}}}),
            Warned("process.execCPUAffinity"),
        ),
        (
            &["process.execCPUAffinity.final"],
            json!({"process": {"execCPUAffinity": {"final": "0"}}}),
            Warned("process.execCPUAffinity"),
        ),
        (&["hostname"], json!({"hostname": "inside"}), Effect),
        (&["domainname"], json!({"domainname": "of.name"}), Effect),
        (
            &[
                "hooks.prestart[].path",
                "hooks.prestart[].args[]",
                "hooks.prestart[].env[]",
                "hooks.prestart[].timeout",
            ],
            json!({"hooks": {"prestart": [{"path": "/bin/true", "args": ["a"], "env": ["A=b"], "timeout": 3}]}}),
            Used("container/hooks.rs"),
        ),
        (
            &[
                "hooks.createRuntime[].path",
                "hooks.createRuntime[].args[]",
                "hooks.createRuntime[].env[]",
                "hooks.createRuntime[].timeout",
            ],
            json!({"hooks": {"createRuntime": [{"path": "/bin/true", "args": ["a"], "env": ["A=b"], "timeout": 3}]}}),
            Used("container/hooks.rs"),
        ),
        (
            &[
                "hooks.createContainer[].path",
                "hooks.createContainer[].args[]",
                "hooks.createContainer[].env[]",
                "hooks.createContainer[].timeout",
            ],
            json!({"hooks": {"createContainer": [{"path": "/bin/true", "args": ["a"], "env": ["A=b"], "timeout": 3}]}}),
            Used("container/hooks.rs"),
        ),
        (
            &[
                "hooks.startContainer[].path",
                "hooks.startContainer[].args[]",
                "hooks.startContainer[].env[]",
                "hooks.startContainer[].timeout",
            ],
            json!({"hooks": {"startContainer": [{"path": "/bin/true", "args": ["a"], "env": ["A=b"], "timeout": 3}]}}),
            Used("container/hooks.rs"),
        ),
        (
            &[
                "hooks.poststart[].path",
                "hooks.poststart[].args[]",
                "hooks.poststart[].env[]",
                "hooks.poststart[].timeout",
            ],
            json!({"hooks": {"poststart": [{"path": "/bin/true", "args": ["a"], "env": ["A=b"], "timeout": 3}]}}),
            Used("container/hooks.rs"),
        ),
        (
            &[
                "hooks.poststop[].path",
                "hooks.poststop[].args[]",
                "hooks.poststop[].env[]",
                "hooks.poststop[].timeout",
            ],
            json!({"hooks": {"poststop": [{"path": "/bin/true", "args": ["a"], "env": ["A=b"], "timeout": 3}]}}),
            Used("container/hooks.rs"),
        ),
        (
            &["annotations.*"],
            json!({"annotations": {"a.b": "c"}}),
            Used("container/mod.rs"),
        ),
        (
            &["solaris"],
            json!({"solaris": {}}),
            Warned("solaris (not for Linux)"),
        ),
        (
            &["windows"],
            json!({"windows": {}}),
            Warned("windows (not for Linux)"),
        ),
        (&["zos"], json!({"zos": {}}), Warned("zos (not for Linux)")),
        (
            &["vm"],
            json!({"vm": {"kernel": {"path": "/vmlinuz"}}}),
            Warned("vm (not for Linux)"),
        ),
        (
            &[
                "uidMappings[].hostID",
                "uidMappings[].containerID",
                "uidMappings[].size",
            ],
            json!({"uidMappings": [{"hostID": 1, "containerID": 0, "size": 1}]}),
            Warned("uidMappings (linux.uidMappings has)"),
        ),
        (
            &[
                "gidMappings[].hostID",
                "gidMappings[].containerID",
                "gidMappings[].size",
            ],
            json!({"gidMappings": [{"hostID": 1, "containerID": 0, "size": 1}]}),
            Warned("gidMappings (linux.gidMappings has)"),
        ),
    ]
}

/// `linux` without its resources.
fn linux() -> Vec<Row> {
    vec![
        (
            &["linux.netDevices.*.name"],
            json!({"linux": {"netDevices": {"eth0": {"name": "x"}}}}),
            Refused("linux.netDevices: not supported"),
        ),
        (
            &[
                "linux.uidMappings[].hostID",
                "linux.uidMappings[].containerID",
                "linux.uidMappings[].size",
                "linux.gidMappings[].hostID",
                "linux.gidMappings[].containerID",
                "linux.gidMappings[].size",
            ],
            json!({"linux": {
                "uidMappings": [
                    {"hostID": 7, "containerID": 5, "size": 3},
                    {"hostID": 20, "containerID": 0, "size": 4}
                ],
                "gidMappings": [
                    {"hostID": 7, "containerID": 5, "size": 3},
                    {"hostID": 20, "containerID": 0, "size": 4}
                ]
            }}),
            Effect,
        ),
        (
            &["linux.sysctl.*"],
            json!({"linux": {"sysctl": {"net.core.somaxconn": "77"}}}),
            Effect,
        ),
        (
            &["linux.cgroupsPath"],
            json!({"linux": {"cgroupsPath": "/a/b"}}),
            Used("cgroup/mod.rs"),
        ),
        (
            &["linux.namespaces[].type"],
            json!({"linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}]}}),
            Effect,
        ),
        (
            &["linux.namespaces[].path"],
            json!({"linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}}),
            Refused("linux.namespaces: pid: /proc/1/ns/pid: cannot be joined"),
        ),
        (
            &[
                "linux.devices[].path",
                "linux.devices[].type",
                "linux.devices[].major",
                "linux.devices[].minor",
                "linux.devices[].fileMode",
                "linux.devices[].uid",
                "linux.devices[].gid",
            ],
            json!({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 384, "uid": 1, "gid": 2}]}}),
            Effect,
        ),
        (
            &[
                "linux.seccomp.defaultAction",
                "linux.seccomp.defaultErrnoRet",
                "linux.seccomp.architectures[]",
                "linux.seccomp.flags[]",
                "linux.seccomp.syscalls[].names[]",
                "linux.seccomp.syscalls[].action",
                "linux.seccomp.syscalls[].errnoRet",
                "linux.seccomp.syscalls[].args[].index",
                "linux.seccomp.syscalls[].args[].value",
                "linux.seccomp.syscalls[].args[].valueTwo",
                "linux.seccomp.syscalls[].args[].op",
            ],
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 7, "architectures": ["SCMP_ARCH_X86_64"], "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [{"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9, "args": [{"index": 1, "value": 5, "valueTwo": 4, "op": "SCMP_CMP_MASKED_EQ"}]}]}}}),
            Effect,
        ),
        (
            &["linux.seccomp.listenerPath"],
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}}}),
            Refused("linux.seccomp: listenerPath: no listeners"),
        ),
        (
            &["linux.seccomp.listenerMetadata"],
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "/x"}}}),
            Refused("linux.seccomp: listenerMetadata: no listeners"),
        ),
        (
            &["linux.rootfsPropagation"],
            json!({"linux": {"rootfsPropagation": "rshared"}}),
            Warned("linux.rootfsPropagation: rshared"),
        ),
        (
            &["linux.maskedPaths[]"],
            json!({"linux": {"maskedPaths": ["/proc/x"]}}),
            Effect,
        ),
        (
            &["linux.readonlyPaths[]"],
            json!({"linux": {"readonlyPaths": ["/proc/x"]}}),
            Effect,
        ),
        (
            &["linux.mountLabel"],
            json!({"linux": {"mountLabel": "a:b"}}),
            Warned("linux.mountLabel"),
        ),
        (
            &[
                "linux.intelRdt.closID",
                "linux.intelRdt.schemata[]",
                "linux.intelRdt.l3CacheSchema",
                "linux.intelRdt.memBwSchema",
                "linux.intelRdt.enableCmt",
                "linux.intelRdt.enableMbm",
                "linux.intelRdt.enableMonitoring",
            ],
            json!({"linux": {"intelRdt": {"closID": "x"}}}),
            Refused("linux.intelRdt: not supported"),
        ),
        (
            &[
                "linux.memoryPolicy.mode",
                "linux.memoryPolicy.nodes",
                "linux.memoryPolicy.flags[]",
            ],
            json!({"linux": {"memoryPolicy": {"mode": "MPOL_DEFAULT", "nodes": "0"}}}),
            Refused("linux.memoryPolicy: not supported"),
        ),
        (
            &["linux.personality.domain"],
            json!({"linux": {"personality": {"domain": "LINUX32"}}}),
            Refused("linux.personality: LINUX32"),
        ),
        (
            &["linux.personality.flags[]"],
            json!({"linux": {"personality": {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}}}),
            Refused("linux.personality.flags"),
        ),
        (
            &["linux.timeOffsets.*.secs"],
            json!({"linux": {"timeOffsets": {"monotonic": {"secs": 1}}}}),
            Refused("linux.timeOffsets"),
        ),
        (
            &["linux.timeOffsets.*.nanosecs"],
            json!({"linux": {"timeOffsets": {"monotonic": {"nanosecs": 1}}}}),
            Refused("linux.timeOffsets"),
        ),
    ]
}

/// `linux.resources`.
fn resources() -> Vec<Row> {
    vec![
        (
            &[
                "linux.resources.devices[].allow",
                "linux.resources.devices[].type",
                "linux.resources.devices[].major",
                "linux.resources.devices[].minor",
                "linux.resources.devices[].access",
            ],
            json!({"linux": {"resources": {"devices": [{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]}}}),
            Warned("linux.resources.devices: allowing c 10:229"),
        ),
        (
            &["linux.resources.memory.limit"],
            json!({"linux": {"resources": {"memory": {"limit": 100000000}}}}),
            Effect,
        ),
        (
            &["linux.resources.memory.reservation"],
            json!({"linux": {"resources": {"memory": {"reservation": 1}}}}),
            Effect,
        ),
        (
            &["linux.resources.memory.swap"],
            json!({"linux": {"resources": {"memory": {"swap": 1}}}}),
            Effect,
        ),
        (
            &["linux.resources.memory.kernelTCP"],
            json!({"linux": {"resources": {"memory": {"kernelTCP": 1}}}}),
            Effect,
        ),
        (
            &["linux.resources.memory.swappiness"],
            json!({"linux": {"resources": {"memory": {"swappiness": 1}}}}),
            Effect,
        ),
        (
            &["linux.resources.memory.kernel"],
            json!({"linux": {"resources": {"memory": {"kernel": 9}}}}),
            Warned("memory.kernel "),
        ),
        (
            &["linux.resources.memory.disableOOMKiller"],
            json!({"linux": {"resources": {"memory": {"disableOOMKiller": true}}}}),
            Warned("memory.disableOOMKiller"),
        ),
        (
            &["linux.resources.memory.useHierarchy"],
            json!({"linux": {"resources": {"memory": {"useHierarchy": false}}}}),
            Warned("memory.useHierarchy"),
        ),
        (
            &["linux.resources.memory.checkBeforeUpdate"],
            json!({"linux": {"resources": {"memory": {"checkBeforeUpdate": true}}}}),
            Used("cgroup/mod.rs"),
        ),
        (
            &["linux.resources.cpu.shares"],
            json!({"linux": {"resources": {"cpu": {"shares": 7}}}}),
            Effect,
        ),
        (
            &["linux.resources.cpu.quota"],
            json!({"linux": {"resources": {"cpu": {"quota": 7000}}}}),
            Effect,
        ),
        (
            &["linux.resources.cpu.idle"],
            json!({"linux": {"resources": {"cpu": {"idle": 1}}}}),
            Effect,
        ),
        (
            &["linux.resources.cpu.burst"],
            json!({"linux": {"resources": {"cpu": {"burst": 7}}}}),
            Effect,
        ),
        (
            &["linux.resources.cpu.period"],
            json!({"linux": {"resources": {"cpu": {"period": 9000}}}}),
            Effect,
        ),
        (
            &["linux.resources.cpu.realtimeRuntime"],
            json!({"linux": {"resources": {"cpu": {"realtimeRuntime": 7}}}}),
            Effect,
        ),
        (
            &["linux.resources.cpu.realtimePeriod"],
            json!({"linux": {"resources": {"cpu": {"realtimePeriod": 7}}}}),
            Effect,
        ),
        (
            &["linux.resources.cpu.cpus"],
            json!({"linux": {"resources": {"cpu": {"cpus": "0"}}}}),
            Effect,
        ),
        (
            &["linux.resources.cpu.mems"],
            json!({"linux": {"resources": {"cpu": {"mems": "0"}}}}),
            Effect,
        ),
        (
            &["linux.resources.pids.limit"],
            json!({"linux": {"resources": {"pids": {"limit": 9}}}}),
            Effect,
        ),
        (
            &["linux.resources.blockIO.weight"],
            json!({"linux": {"resources": {"blockIO": {"weight": 20}}}}),
            Effect,
        ),
        (
            &["linux.resources.blockIO.leafWeight"],
            json!({"linux": {"resources": {"blockIO": {"leafWeight": 20}}}}),
            Effect,
        ),
        (
            &[
                "linux.resources.blockIO.weightDevice[].major",
                "linux.resources.blockIO.weightDevice[].minor",
                "linux.resources.blockIO.weightDevice[].weight",
                "linux.resources.blockIO.weightDevice[].leafWeight",
            ],
            json!({"linux": {"resources": {"blockIO": {"weightDevice": [{"major": 8, "minor": 1, "weight": 20, "leafWeight": 30}]}}}}),
            Effect,
        ),
        (
            &[
                "linux.resources.blockIO.throttleReadBpsDevice[].major",
                "linux.resources.blockIO.throttleReadBpsDevice[].minor",
                "linux.resources.blockIO.throttleReadBpsDevice[].rate",
            ],
            json!({"linux": {"resources": {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 9}]}}}}),
            Effect,
        ),
        (
            &[
                "linux.resources.blockIO.throttleWriteBpsDevice[].major",
                "linux.resources.blockIO.throttleWriteBpsDevice[].minor",
                "linux.resources.blockIO.throttleWriteBpsDevice[].rate",
            ],
            json!({"linux": {"resources": {"blockIO": {"throttleWriteBpsDevice": [{"major": 8, "minor": 1, "rate": 9}]}}}}),
            Effect,
        ),
        (
            &[
                "linux.resources.blockIO.throttleReadIOPSDevice[].major",
                "linux.resources.blockIO.throttleReadIOPSDevice[].minor",
                "linux.resources.blockIO.throttleReadIOPSDevice[].rate",
            ],
            json!({"linux": {"resources": {"blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 1, "rate": 9}]}}}}),
            Effect,
        ),
        (
            &[
                "linux.resources.blockIO.throttleWriteIOPSDevice[].major",
                "linux.resources.blockIO.throttleWriteIOPSDevice[].minor",
                "linux.resources.blockIO.throttleWriteIOPSDevice[].rate",
            ],
            json!({"linux": {"resources": {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 9}]}}}}),
            Effect,
        ),
        (
            &[
                "linux.resources.hugepageLimits[].pageSize",
                "linux.resources.hugepageLimits[].limit",
            ],
            json!({"linux": {"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 9}]}}}),
            Effect,
        ),
        (
            &["linux.resources.network.classID"],
            json!({"linux": {"resources": {"network": {"classID": 9}}}}),
            Effect,
        ),
        (
            &[
                "linux.resources.network.priorities[].name",
                "linux.resources.network.priorities[].priority",
            ],
            json!({"linux": {"resources": {"network": {"priorities": [{"name": "eth0", "priority": 9}]}}}}),
            Effect,
        ),
        (
            &[
                "linux.resources.rdma.*.hcaHandles",
                "linux.resources.rdma.*.hcaObjects",
            ],
            json!({"linux": {"resources": {"rdma": {"mlx": {"hcaHandles": 3, "hcaObjects": 4}}}}}),
            Effect,
        ),
        (
            &["linux.resources.unified.*"],
            json!({"linux": {"resources": {"unified": {"memory.high": "9"}}}}),
            Effect,
        ),
    ]
}
