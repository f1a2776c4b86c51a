//! Selects volumes by filter or by name. Pure.

use std::str::FromStr;

use mounts::propagation::{MountPropagation, UnknownPropagation};

use super::model::{PublishedVolume, State};

/// `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    key: Key,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Name,
    Entry,
    Pod,
    Namespace,
    Propagation,
    Health,
    Driver,
}

impl Key {
    const ALL: [(&'static str, Self); 7] = [
        ("name", Self::Name),
        ("entry", Self::Entry),
        ("pod", Self::Pod),
        ("namespace", Self::Namespace),
        ("propagation", Self::Propagation),
        ("health", Self::Health),
        ("driver", Self::Driver),
    ];
}

/// Why a text is not a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// Not a key and a value.
    #[error("it is no KEY=VALUE; keys are {}", keys())]
    NoPair,
    /// There is no such key.
    #[error("{key:?} is no key: use one of {keys}", key = .0, keys = keys())]
    Key(String),
    /// The value is no propagation.
    #[error(transparent)]
    Propagation(#[from] UnknownPropagation),
    /// The value is no health.
    #[error("{health:?} is no health: use one of {all}", health = .0, all = State::ALL.map(State::name).join(", "))]
    Health(String),
}

fn keys() -> String {
    Key::ALL.map(|(name, _)| name).join(", ")
}

impl FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let (key, value) = text.split_once('=').ok_or(BadFilter::NoPair)?;
        let known = Key::ALL.into_iter().find(|(name, _)| *name == key);
        let (_, key) = known.ok_or_else(|| BadFilter::Key(key.to_owned()))?;
        let value = match key {
            Key::Propagation => value.parse::<MountPropagation>()?.name().to_owned(),
            Key::Health => {
                let status = State::ALL.into_iter().find(|status| status.name().eq_ignore_ascii_case(value));
                status.ok_or_else(|| BadFilter::Health(value.to_owned()))?.name().to_owned()
            }
            _ => value.to_owned(),
        };
        Ok(Self { key, value })
    }
}

impl Filter {
    fn is_met(&self, volume: &PublishedVolume) -> bool {
        let value = self.value.as_str();
        let is = |text: &Option<String>| text.as_deref() == Some(value);
        match self.key {
            // A part is enough, as for `docker volume ls`.
            Key::Name => volume.name.contains(value),
            Key::Entry => is(&volume.entry),
            Key::Pod => volume.pod.uid == value || is(&volume.pod.name) || is(&pod_path(volume)),
            Key::Namespace => is(&volume.pod.namespace),
            Key::Propagation => is(&volume.propagation),
            Key::Health => volume.health.status.name() == value,
            Key::Driver => volume.driver == value,
        }
    }
}

/// `NAMESPACE/POD`, where it is known.
#[must_use]
pub fn pod_path(volume: &PublishedVolume) -> Option<String> {
    Some(format!("{}/{}", volume.pod.namespace.as_ref()?, volume.pod.name.as_ref()?))
}

/// The volume's unique name, as [`named`] takes it: `NAMESPACE/POD/VOLUME`, or the target path.
#[must_use]
pub fn full_name(volume: &PublishedVolume) -> String {
    match pod_path(volume) {
        Some(pod) => format!("{pod}/{}", volume.name),
        None => volume.mountpoint.clone(),
    }
}

/// Whether a volume passes the filters. Filters with the same key are alternatives.
#[must_use]
pub fn passes(volume: &PublishedVolume, filters: &[Filter]) -> bool {
    filters.iter().all(|filter| filters.iter().any(|other| other.key == filter.key && other.is_met(volume)))
}

/// The volumes with these names, each once, in the order of the names; and the names that no volume has.
#[must_use]
pub fn named<'a>(volumes: &'a [PublishedVolume], names: &'a [String]) -> (Vec<&'a PublishedVolume>, Vec<&'a str>) {
    let (mut chosen, mut missing): (Vec<&PublishedVolume>, Vec<&str>) = (Vec::new(), Vec::new());
    for name in names {
        let is_called = |v: &&PublishedVolume| v.name == *name || v.mountpoint == *name || full_name(v) == *name;
        let mut found = volumes.iter().filter(is_called).peekable();
        if found.peek().is_none() {
            missing.push(name);
        }
        for volume in found {
            if !chosen.iter().any(|other| other.mountpoint == volume.mountpoint) {
                chosen.push(volume);
            }
        }
    }
    (chosen, missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::show::tests::volume;

    #[test]
    fn filters_of_one_key_are_alternatives_and_keys_are_all_to_be_met() {
        let passes = |filters: &[&str]| {
            let filters: Vec<Filter> = filters.iter().map(|f| f.parse().unwrap()).collect();
            passes(&volume("models", "ml", "train"), &filters)
        };
        for met in [
            &[][..],
            &["name=ode"],
            &["name=x", "name=ode"],
            &["pod=train", "namespace=ml"],
            &["pod=ml/train"],
            &["pod=uid-train"],
            &["entry=data", "propagation=rslave", "health=live", "driver=csi.hostmount.dev"],
        ] {
            assert!(passes(met), "{met:?}");
        }
        for unmet in [&["name=x"][..], &["name=ode", "namespace=x"], &["pod=trai"], &["entry=dat"], &["health=DEAD"]] {
            assert!(!passes(unmet), "{unmet:?}");
        }
    }

    #[test]
    fn filters_that_mean_nothing_are_refused_with_what_would() {
        for (filter, word) in
            [("name", "KEY=VALUE"), ("x=y", "namespace"), ("health=x", "Hung"), ("propagation=slave", "rslave")]
        {
            let refused = filter.parse::<Filter>().unwrap_err().to_string();
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn an_ambiguous_name_means_all_and_an_unknown_one_is_told() {
        let volumes = [volume("v", "ml", "a"), volume("v", "ml", "b"), volume("w", "ml", "b")];
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            let (chosen, missing) = named(&volumes, &names);
            let missing: Vec<String> = missing.iter().map(|&m| m.to_owned()).collect();
            (chosen.into_iter().map(full_name).collect::<Vec<_>>(), missing)
        };
        assert_eq!(named(&["v"]).0, ["ml/a/v", "ml/b/v"]);
        assert_eq!(named(&["w", "ml/b/v", "v"]).0, ["ml/b/w", "ml/b/v", "ml/a/v"]);
        assert_eq!(named(&[&volumes[1].mountpoint]).0, ["ml/b/v"]);
        assert_eq!(named(&["x", "w", "ml/b"]), (vec!["ml/b/w".to_owned()], vec!["x".to_owned(), "ml/b".to_owned()]));
    }
}
