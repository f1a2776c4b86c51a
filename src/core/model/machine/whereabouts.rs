//! Parses how people name a mount namespace, or a path in one, on a command line. Pure.

use std::path::PathBuf;
use std::str::FromStr;

use super::{Machine, Namespace, Pod};

/// The lowest inode number on nsfs (include/linux/proc_fs.h `PROC_DYNAMIC_FIRST`). No pid is this high.
const FIRST_INODE: u64 = 0xF000_0000;

/// A namespace by one of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// The namespace of process 1.
    Node,
    /// The namespace of a process.
    Pid(i32),
    /// The namespace with this inode, as `lsns` prints it.
    Inode(u64),
    /// The namespace of a pod's container.
    Pod {
        /// The pod's namespace, if given.
        namespace: Option<String>,
        /// The pod's name, or its uid.
        name: String,
        /// The container's name, if given.
        container: Option<String>,
    },
}

/// A word that is no place, and names no namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPlace {
    /// No name of a namespace.
    #[error(
        "{0:?} names no namespace: write node, a process number, pod/NAMESPACE/NAME[/CONTAINER], or an inode of lsns"
    )]
    Namespace(String),
    /// No path, with or without a namespace.
    #[error("{0:?} is no place: write an absolute path, or WHERE:/PATH")]
    Path(String),
}

/// A namespace that isn't there, or isn't the only one of its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}{}", if *.incomplete { "; not everything could be read, see above" } else { "" })]
pub struct NotFound {
    what: What,
    /// Whether it may be among what could not be read.
    incomplete: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum What {
    #[error("process 1 is in no namespace that could be read")]
    Node,
    #[error("there is no process {0}")]
    Pid(i32),
    #[error("there is no mount namespace {0}: `lsns -t mnt` lists them")]
    Inode(u64),
    #[error("no namespace belongs to a pod {name:?}: {}", .others.as_deref().unwrap_or("there are none"))]
    Pod {
        name: String,
        /// Which pods there are, in words.
        others: Option<String>,
    },
    #[error("which container of the pod {name:?}? It has {}", .containers.join(", "))]
    Container { name: String, containers: Vec<String> },
}

impl FromStr for Where {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let fault = || BadPlace::Namespace(text.to_owned());
        if text == "node" {
            return Ok(Self::Node);
        }
        let bare = text.strip_prefix("mnt:[").and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(number) = bare.parse::<u64>() {
            let pid = i32::try_from(number).ok().filter(|&pid| pid > 0).map(Self::Pid);
            return if number >= FIRST_INODE { Ok(Self::Inode(number)) } else { pid.ok_or_else(fault) };
        }
        let parts: Vec<&str> = text.split('/').collect();
        let own = |text: &str| text.to_owned();
        match parts.as_slice() {
            ["pod", name] if !name.is_empty() => Ok(Self::Pod { namespace: None, name: own(name), container: None }),
            ["pod", namespace, name, rest @ ..] if !namespace.is_empty() && !name.is_empty() && rest.len() <= 1 => {
                let container = rest.first().map(|name| own(name));
                Ok(Self::Pod { namespace: Some(own(namespace)), name: own(name), container })
            }
            _ => Err(fault()),
        }
    }
}

impl Pod {
    /// Whether the pod has this name (and namespace, if given), or this uid.
    #[must_use]
    pub fn is(&self, namespace: Option<&str>, name: &str) -> bool {
        (namespace.is_none() && self.uid == name)
            || self.name.as_ref().is_some_and(|(of, called)| called == name && namespace.is_none_or(|n| n == of))
    }
}

impl Pod {
    /// Whether one word names the pod: `NAMESPACE/NAME`, its name, or its uid.
    #[must_use]
    pub fn is_called(&self, wanted: &str) -> bool {
        match wanted.split_once('/') {
            Some((namespace, name)) => self.is(Some(namespace), name),
            None => self.is(None, wanted),
        }
    }
}

impl Where {
    /// The index in [`Machine::namespaces`] of the namespace that is meant.
    ///
    /// # Errors
    /// No namespace matches, or more than one does. The text lists what there is.
    pub fn find(&self, machine: &Machine) -> Result<usize, NotFound> {
        let all = || machine.namespaces.iter().enumerate();
        let at = |is: &dyn Fn(&Namespace) -> bool| all().find(|(_, namespace)| is(namespace)).map(|(n, _)| n);
        let of_process = |pid: i32| at(&|namespace| namespace.processes.iter().any(|process| process.pid == pid));
        let none = |what| NotFound { what, incomplete: !machine.left_out.is_empty() };
        match self {
            Self::Node => of_process(1).ok_or_else(|| none(What::Node)),
            Self::Pid(pid) => of_process(*pid).ok_or_else(|| none(What::Pid(*pid))),
            Self::Inode(inode) => at(&|namespace| namespace.inode == *inode).ok_or_else(|| none(What::Inode(*inode))),
            Self::Pod { namespace, name, container } => {
                let of_pod =
                    |n: &&(usize, &Namespace)| n.1.pod.as_ref().is_some_and(|pod| pod.is(namespace.as_deref(), name));
                let entries: Vec<(usize, &Namespace)> = all().collect();
                let found: Vec<&(usize, &Namespace)> = entries.iter().filter(of_pod).collect();
                let called = |n: &Namespace| n.container.as_ref().and_then(|container| container.name.clone());
                if found.is_empty() {
                    return Err(none(What::Pod { name: name.clone(), others: pods(machine) }));
                }
                // The pod's sandbox has a namespace too, which nobody means.
                let mut meant: Vec<&(usize, &Namespace)> = found
                    .iter()
                    .copied()
                    .filter(|(_, n)| match container {
                        Some(wanted) => called(n).as_ref() == Some(wanted),
                        None => called(n).is_some(),
                    })
                    .collect();
                if meant.is_empty() && container.is_none() {
                    meant = found.clone();
                }
                match meant.as_slice() {
                    [(number, _)] => Ok(*number),
                    _ => {
                        let containers = found.iter().filter_map(|(_, n)| called(n)).collect();
                        let what = What::Container { name: name.clone(), containers };
                        Err(NotFound { what, incomplete: false })
                    }
                }
            }
        }
    }
}

/// The pods of the machine, in words. None: it has none.
#[must_use]
pub fn pods(machine: &Machine) -> Option<String> {
    /// Enough to show how pods are named.
    const NAMED: usize = 10;
    let mut pods: Vec<String> =
        machine.namespaces.iter().filter_map(|namespace| namespace.pod.as_ref().map(Pod::to_string)).collect();
    pods.sort();
    pods.dedup();
    if pods.is_empty() {
        return None;
    }
    let more = pods.len().saturating_sub(NAMED);
    pods.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("there are {}{more}", pods.join(", ")))
}

/// A path in a namespace: `WHERE:PATH`. Without `WHERE:` it is a path in our namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceText {
    /// The namespace. None: the caller's.
    pub namespace: Option<Where>,
    /// The absolute path.
    pub path: PathBuf,
}

impl FromStr for PlaceText {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        if text.starts_with('/') {
            return Ok(Self { namespace: None, path: text.into() });
        }
        let Some((namespace, path)) = text.split_once(":/") else {
            return Err(BadPlace::Path(text.to_owned()));
        };
        Ok(Self { namespace: Some(namespace.parse()?), path: format!("/{path}").into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Container, LeftOut, Process};

    fn machine() -> Machine {
        let namespace = |pid, pod: Option<&str>, container: Option<&str>| Namespace {
            inode: FIRST_INODE + u64::try_from(pid).unwrap(),
            processes: vec![Process { pid, name: "sh".into() }],
            pod: pod.map(|name| Pod { uid: format!("u-{name}"), name: Some(("ns".into(), name.into())) }),
            container: pod.map(|_| Container { id: Some("1".into()), name: container.map(Into::into) }),
            ..Namespace::default()
        };
        let namespaces = vec![
            namespace(1, None, None),
            namespace(7, Some("a"), None),
            namespace(8, Some("a"), Some("main")),
            namespace(9, Some("b"), Some("x")),
            namespace(10, Some("b"), Some("y")),
            namespace(11, Some("c"), None),
        ];
        Machine { namespaces, left_out: Vec::new() }
    }

    #[test]
    fn namespaces_are_found_by_all_their_names() {
        let find = |text: &str| text.parse::<Where>().unwrap().find(&machine()).map_err(|e| e.to_string());
        assert_eq!(find("node"), Ok(0));
        assert_eq!(find("9"), Ok(3));
        assert_eq!(find("4026531850"), Ok(4));
        assert_eq!(find("mnt:[4026531850]"), Ok(4));
        assert_eq!(find("pod/a"), Ok(2), "not the sandbox");
        assert_eq!(find("pod/ns/a"), Ok(2));
        assert_eq!(find("pod/u-c"), Ok(5));
        assert_eq!(find("pod/ns/b/y"), Ok(4));
        assert!(find("pod/b").unwrap_err().contains("It has x, y"));
        assert!(find("pod/ns/b/z").unwrap_err().contains("It has x, y"));
        assert!(find("pod/other/a").unwrap_err().contains("there are ns/a, ns/b, ns/c"));
        assert!(find("12").unwrap_err().contains("no process 12"));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in ["", "pod/", "pod//x", "0", "-3", "nodes", "pod/a/b/c/d", "mnt:[x]", "3000000000"] {
            assert!(text.parse::<Where>().is_err(), "{text}");
        }
        let lacking = Machine { left_out: vec![LeftOut { what: "x".into(), why: "y".into() }], ..Machine::default() };
        assert!(Where::Node.find(&lacking).unwrap_err().to_string().contains("not everything could be read"));
    }

    #[test]
    fn a_place_is_a_path_with_or_without_a_namespace() {
        let parse = |text: &str| text.parse::<PlaceText>();
        assert_eq!(parse("/a:/b"), Ok(PlaceText { namespace: None, path: "/a:/b".into() }));
        let in_pod = parse("pod/ns/a:/b:/c").unwrap();
        assert_eq!(in_pod.path, PathBuf::from("/b:/c"));
        assert_eq!(parse("7:/").unwrap().namespace, Some(Where::Pid(7)));
        assert!(parse("relative").is_err() && parse("pods:/x").is_err());
    }
}
