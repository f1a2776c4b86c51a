//! Reads the values of options that several commands have.

use std::ffi::OsStr;
use std::time::Duration;

use allowlist::names::{AbsPath, BadDriverName, BadName, check_driver};
use model::machine::names;

/// Why the value of an option is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadValue {
    #[error("it {0}")]
    Path(BadName),
    #[error(transparent)]
    Driver(#[from] BadDriverName),
    #[error("it is not a number")]
    NotANumber,
    #[error("it is no time: write seconds above 0")]
    NotATime,
    #[error("write seconds from 0.01 to 3600")]
    NotAnInterval,
    #[error("write its number, or mnt:[NUMBER]")]
    NotAnInode,
}

/// The kubelet's directory.
pub(crate) fn kubelet_dir(text: &str) -> Result<AbsPath, BadValue> {
    AbsPath::parse(text).map_err(BadValue::Path)
}

/// The driver's name.
pub(crate) fn driver_name(text: &str) -> Result<String, BadValue> {
    check_driver(text)?;
    Ok(text.to_owned())
}

/// A time-out in seconds.
pub(crate) fn timeout(text: &str) -> Result<Duration, BadValue> {
    seconds(text)?.filter(|time| !time.is_zero()).ok_or(BadValue::NotATime)
}

/// The time between two looks, in seconds.
pub(crate) fn interval(text: &str) -> Result<Duration, BadValue> {
    let allowed = Duration::from_millis(10)..=Duration::from_secs(3600);
    seconds(text)?.filter(|time| allowed.contains(time)).ok_or(BadValue::NotAnInterval)
}

/// None: a number that is no time.
fn seconds(text: &str) -> Result<Option<Duration>, BadValue> {
    let seconds = text.parse().map_err(|_| BadValue::NotANumber)?;
    Ok(Duration::try_from_secs_f64(seconds).ok())
}

/// The inode of a namespace, as a number or as its link.
pub(crate) fn inode(text: &str) -> Result<u64, BadValue> {
    let found = names::namespace_link(OsStr::new(text)).or_else(|| text.parse().ok());
    found.filter(|inode| *inode > 0).ok_or(BadValue::NotAnInode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_named_as_links_or_numbers() {
        assert_eq!((inode("mnt:[12]"), inode("12")), (Ok(12), Ok(12)));
        assert!(inode("0").is_err() && inode("net:[12]").is_err());
    }

    #[test]
    fn times_are_seconds_within_bounds() {
        assert_eq!((timeout("0.25"), timeout("0")), (Ok(Duration::from_millis(250)), Err(BadValue::NotATime)));
        assert_eq!((timeout("x"), timeout("-1")), (Err(BadValue::NotANumber), Err(BadValue::NotATime)));
        assert_eq!((interval("0.01"), interval("3601")), (Ok(Duration::from_millis(10)), Err(BadValue::NotAnInterval)));
    }
}
