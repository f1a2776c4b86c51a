//! Paths and other bytes in JSON. Pure.
//!
//! A path is any bytes. In JSON it is a string, with U+FFFD for bytes that are not UTF-8. Where there are such bytes, a second
//! member, with `Hex` at the end of its name, has all bytes as hexadecimal digits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use text::hex;

/// Bytes as a string, with U+FFFD for what is not UTF-8.
#[derive(Debug)]
pub(crate) struct Lossy<'v>(pub(crate) &'v OsStr);

impl Serialize for Lossy<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_string_lossy())
    }
}

/// Bytes that are not UTF-8, as hexadecimal digits.
#[derive(Debug)]
pub(crate) struct Hex<'v>(&'v OsStr);

impl<'v> Hex<'v> {
    /// None if the bytes are UTF-8: then the string is exact.
    pub(crate) fn of(bytes: &'v OsStr) -> Option<Self> {
        bytes.to_str().is_none().then_some(Self(bytes))
    }
}

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(self.0.as_bytes()))
    }
}

/// Puts bytes into an object, as one member or two.
pub(crate) fn put(object: &mut Map<String, Value>, name: &str, bytes: &OsStr) {
    object.insert(name.to_owned(), bytes.to_string_lossy().into());
    if let Some(Hex(bytes)) = Hex::of(bytes) {
        object.insert(format!("{name}Hex"), hex(bytes.as_bytes()).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_added_only_where_the_string_is_not_exact() {
        let mut object = Map::new();
        put(&mut object, "path", OsStr::new("/a"));
        assert_eq!(Value::Object(object.clone()).to_string(), r#"{"path":"/a"}"#);
        put(&mut object, "path", OsStr::from_bytes(b"/\xff"));
        assert_eq!((object["path"].as_str(), object["pathHex"].as_str()), (Some("/\u{fffd}"), Some("2fff")));
    }
}
