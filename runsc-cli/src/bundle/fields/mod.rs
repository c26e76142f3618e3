//! Every field that a configuration may have has an outcome: an effect, a warning or a refusal, by name.
//!
//! The fields come from the decoder's own types, so one that is new there fails the test until
//! somebody has thought of it.

mod table;

use std::{cell::RefCell, fmt, fs};

use serde::{
    Deserialize,
    de::{
        DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{Error, StrDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::Value;

use super::*;

/// What becomes of a field.
enum Outcome {
    /// What is built differs with and without it.
    Effect,
    /// The container runs, and a warning has these words.
    Warned(&'static str),
    /// It does not, and the error has these words.
    Refused(&'static str),
    /// Used by what runs the container, past the translation; where.
    Used(&'static str),
}
use Outcome::{Effect, Refused, Used, Warned};

/// Sections for other systems, which count as one field each.
const FOREIGN: [&str; 4] = ["solaris", "windows", "vm", "zos"];

/// Answers whatever is asked for and notes at which paths.
#[derive(Clone)]
struct Asked<'a> {
    path: String,
    seen: &'a RefCell<Vec<String>>,
}

impl Asked<'_> {
    fn below(&self, part: &str) -> Self {
        Self {
            path: format!("{}{part}", self.path),
            seen: self.seen,
        }
    }

    fn note(&self) {
        let path = self.path.trim_start_matches('.');
        let top = path.split('.').next().unwrap_or(path);
        let path = if FOREIGN.contains(&top) { top } else { path };
        let mut seen = self.seen.borrow_mut();
        if !seen.iter().any(|other| other == path) {
            seen.push(path.to_owned());
        }
    }
}

macro_rules! scalars {
    ($($name:ident)*) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.note();
            visitor.visit_u64(1)
        })*
    };
}

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    scalars! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    }
    forward_to_deserialize_any! { i128 u128 f32 f64 bytes byte_buf unit unit_struct tuple tuple_struct ignored_any }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note();
        visitor.visit_unit()
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note();
        visitor.visit_bool(true)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note();
        let capability = self.path.contains("apabilities");
        visitor.visit_str(if capability { "KILL" } else { "0" })
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(One(Some(self)))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Fields::new(self, &["*"]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Fields::new(self, fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.note();
        let first: StrDeserializer<'_, Error> = variants[0].into_deserializer();
        visitor.visit_enum(first)
    }
}

/// A list with one entry.
struct One<'a>(Option<Asked<'a>>);

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let list = self.0.take();
        list.map(|list| {
            // A list of plain values is one field, one of objects has theirs.
            seed.deserialize(list.below("[]"))
        })
        .transpose()
    }
}

struct Fields<'a> {
    of: Asked<'a>,
    names: std::slice::Iter<'static, &'static str>,
    at: &'static str,
}

impl<'a> Fields<'a> {
    fn new(of: Asked<'a>, names: &'static [&'static str]) -> Self {
        let names = names.iter();
        Self { of, names, at: "" }
    }
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.names.next() else {
            return Ok(None);
        };
        self.at = name;
        let name: StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(self.of.below(&format!(".{}", self.at)))
    }
}

/// Takes the value at `path` out of a configuration.
fn take_out(config: &mut Value, path: &str) {
    let path = path.replace("[]", ".[]");
    let parts: Vec<_> = path.split('.').collect();
    let Some((last, above)) = parts.split_last() else {
        return;
    };
    let mut at = config;
    for part in above {
        let next = match (*part, at) {
            ("[]", Value::Array(list)) => list.first_mut(),
            ("*", Value::Object(map)) => map.values_mut().next(),
            (name, Value::Object(map)) => map.get_mut(name),
            _ => None,
        };
        let Some(next) = next else { return };
        at = next;
    }
    match at {
        Value::Array(list) => list.clear(),
        Value::Object(map) if *last == "*" => map.clear(),
        Value::Object(map) => drop(map.remove(*last)),
        _ => {}
    }
}

/// Puts what `patch` has over `config`.
fn put(config: &mut Value, patch: &Value) {
    match (config, patch) {
        (Value::Object(config), Value::Object(patch)) => {
            for (key, value) in patch {
                put(config.entry(key).or_insert(Value::Null), value);
            }
        }
        (config, patch) => *config = patch.clone(),
    }
}

/// What is built for a configuration, as text, and what was warned of.
struct Built {
    what: String,
    warned: Vec<String>,
}

fn build(directory: &Path, config: &Value) -> Result<Built> {
    fs::write(directory.join("config.json"), config.to_string())?;
    let bundle = Bundle::load(directory)?;
    let (boot, gofer) = bundle.translate("id", OverlayKind::None)?;
    let linux = bundle.spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let (settings, vain) = crate::cgroup::outcome(resources);
    let mut warned = bundle.without_effect();
    warned.extend(vain);
    let namespaces = linux.and_then(|linux| linux.namespaces().clone());
    let of_host = (
        bundle.mappings()?,
        settings,
        namespaces.map(|all| all.len()),
    );
    Ok(Built {
        what: format!("{:?}", (boot, gofer, of_host)),
        warned,
    })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect => write!(f, "an effect"),
            Warned(word) => write!(f, "a warning of {word:?}"),
            Refused(word) => write!(f, "a refusal with {word:?}"),
            Used(place) => write!(f, "silence, as {place} uses it"),
        }
    }
}

/// Whether a field has its outcome; what else it has.
fn check(directory: &Path, path: &str, patch: &Value, outcome: &Outcome) -> Result<()> {
    let mut config: Value = serde_json::from_str(include_str!("../../../tests/data/minimal.json"))?;
    put(&mut config, patch);
    let with = build(directory, &config);
    if let Refused(word) = outcome {
        let text = with.err().map(|error| format!("{error:#}"));
        let text = text.unwrap_or_default();
        ensure!(text.contains(word), "{path}: wants {outcome}, has {text:?}");
        return Ok(());
    }
    let with = with.with_context(|| format!("{path}: wants {outcome}"))?;
    if let Warned(word) = outcome {
        let times = with.warned.iter().filter(|name| name.contains(word));
        let warned = &with.warned;
        ensure!(
            times.count() == 1,
            "{path}: wants {outcome}, has {warned:?}"
        );
        return Ok(());
    }
    let warned = &with.warned;
    ensure!(warned.is_empty(), "{path}: wants {outcome}, has {warned:?}");
    if let Used(place) = outcome {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src")
            .join(place);
        ensure!(source.is_file(), "{path}: {place}: no such file");
        return Ok(());
    }
    // Without it, or without what cannot be without it.
    let mut part = path;
    loop {
        let mut config = config.clone();
        take_out(&mut config, part);
        if let Ok(without) = build(directory, &config) {
            ensure!(
                with.what != without.what,
                "{path}: wants {outcome}, has none"
            );
            return Ok(());
        }
        match part.rfind(['.', '[']) {
            Some(end) => part = &part[..end],
            // No configuration at all is without it.
            None => return Ok(()),
        }
    }
}

#[test]
fn every_field_has_an_outcome() {
    let seen = RefCell::default();
    let asked = Asked {
        path: String::new(),
        seen: &seen,
    };
    Spec::deserialize(asked).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let directory = fs::canonicalize(dir.path()).unwrap();
    fs::create_dir_all(directory.join("rootfs/etc")).unwrap();
    fs::create_dir(directory.join("other")).unwrap();
    let table = table::table();
    let mut listed = Vec::new();
    let mut wrong = Vec::new();
    for (paths, patch, outcome) in &table {
        for path in *paths {
            listed.push(*path);
            let error = check(&directory, path, patch, outcome).err();
            wrong.extend(error.map(|error| format!("{error:#}")));
        }
    }
    let all = seen.borrow();
    let new = all.iter().filter(|path| !listed.contains(&path.as_str()));
    wrong.extend(new.map(|path| format!("{path}: not in the table")));
    let gone = listed
        .iter()
        .filter(|path| !all.iter().any(|seen| seen == *path));
    wrong.extend(gone.map(|path| format!("{path}: no such field")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
