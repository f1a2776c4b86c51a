//! Where the volumes of a front-end lie: one layout for each front-end.
//!
//! What is mounted tells by its path alone what it is. So a layout is the shapes of those paths, and everything else asks it.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use allowlist::names::AbsPath;

/// A part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// This name.
    Is(String),
    /// Any name.
    Any,
    /// The id of whoever uses a volume: a pod's uid.
    Workload,
    /// The name of one of its containers.
    Container,
}

impl Part {
    /// This name.
    #[must_use]
    pub fn is(name: &str) -> Self {
        Self::Is(name.to_owned())
    }
}

/// What a path of a certain shape tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told<'p> {
    /// Who uses the volume.
    pub workload: Option<&'p str>,
    /// The container.
    pub container: Option<&'p OsStr>,
    /// Whether the path goes on beneath what has the shape.
    pub beneath: bool,
}

/// What a path that begins as these parts say tells; none if it doesn't.
#[must_use]
pub fn told<'p>(parts: &[Part], path: &'p Path) -> Option<Told<'p>> {
    let mut told = Told::default();
    let mut names = path.components();
    for part in parts {
        let Component::Normal(name) = names.next()? else { return None };
        match part {
            Part::Is(wanted) if wanted.as_bytes() == name.as_encoded_bytes() => {}
            Part::Is(_) => return None,
            Part::Any => {}
            Part::Workload => told.workload = Some(name.to_str()?),
            Part::Container => told.container = Some(name),
        }
    }
    told.beneath = names.next().is_some();
    Some(told)
}

/// What is mounted at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// A volume at its target path.
    Target,
    /// Something inside of a published volume.
    InTarget,
    /// A volume of ours at its staging path.
    Staging,
}

/// Where the volumes of a front-end lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The directory beneath which every target and staging path lies.
    pub base: AbsPath,
    /// Where volumes are put together: the directories from the base on, which are ours but for the first.
    pub staging_area: Vec<String>,
    /// How targets look from the base on.
    pub target: Vec<Part>,
    /// How our staging paths look from the base on.
    pub staging: Vec<Part>,
    /// The directory in which workloads have all that they may write.
    pub workloads: PathBuf,
    /// How files look, from [`workloads`](Self::workloads) on, that runtimes mount into containers and that tell whose these are.
    pub files: Vec<Vec<Part>>,
    /// Mounts beneath these directories of the base are no publications of a volume, whatever they show.
    pub not_published: Vec<PathBuf>,
    /// Nor are those with this name in their path: copies that others have made of a published volume.
    pub copies: Option<String>,
}

impl Layout {
    /// The path from the base on; none if it isn't beneath it.
    fn below<'p>(&self, point: &'p Path) -> Option<&'p Path> {
        point.strip_prefix(self.base.as_path()).ok()
    }

    /// What a path that is a target, or lies beneath one, tells.
    fn told_of_target<'p>(&self, point: &'p Path) -> Option<Told<'p>> {
        told(&self.target, self.below(point)?)
    }

    /// What is mounted at a path, if that is one of a volume.
    #[must_use]
    pub fn at(&self, point: &Path) -> Option<At> {
        match self.told_of_target(point) {
            Some(Told { beneath: true, .. }) => Some(At::InTarget),
            Some(_) => Some(At::Target),
            None => told(&self.staging, self.below(point)?).filter(|told| !told.beneath).map(|_| At::Staging),
        }
    }

    /// Whether this is where a volume is published.
    #[must_use]
    pub fn is_target(&self, point: &Path) -> bool {
        self.told_of_target(point).is_some_and(|told| !told.beneath)
    }

    /// Whether this lies in a published volume.
    #[must_use]
    pub fn is_in_target(&self, point: &Path) -> bool {
        self.told_of_target(point).is_some_and(|told| told.beneath)
    }

    /// Who uses the volume at a target.
    #[must_use]
    pub fn workload_of<'p>(&self, target: &'p Path) -> Option<&'p str> {
        self.told_of_target(target).filter(|told| !told.beneath)?.workload
    }

    /// Whose a file beneath [`workloads`](Self::workloads) is, and of which container.
    #[must_use]
    pub fn owner_of_file<'p>(&self, file: &'p Path) -> Option<(&'p str, Option<&'p OsStr>)> {
        let told = self.files.iter().find_map(|parts| told(parts, file).filter(|told| !told.beneath))?;
        Some((told.workload?, told.container))
    }

    /// Whether a mount at this path, which shows the directory of a volume, is a publication of it.
    #[must_use]
    pub fn is_publication(&self, point: &Path) -> bool {
        self.below(point).is_some_and(|below| {
            !self.not_published.iter().any(|beneath| below.starts_with(beneath))
                && !below.iter().any(|part| self.copies.as_deref().is_some_and(|copies| part == copies))
        })
    }

    /// Where the staging area is mounted.
    #[must_use]
    pub fn staging_area(&self) -> PathBuf {
        self.staging_area.iter().fold(self.base.as_path().to_owned(), |path, name| path.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout {
            base: AbsPath::parse("/b").unwrap(),
            staging_area: vec!["own".to_owned(), "area".to_owned()],
            target: vec![Part::is("users"), Part::Workload, Part::is("mount")],
            staging: vec![Part::is("own"), Part::Any, Part::is("staged")],
            workloads: "/b/users".into(),
            files: vec![
                vec![Part::Workload, Part::is("hosts")],
                vec![Part::Workload, Part::is("containers"), Part::Container, Part::Any],
            ],
            not_published: vec!["own".into()],
            copies: Some("copies".to_owned()),
        }
    }

    #[test]
    fn a_path_tells_what_is_mounted_there() {
        let layout = layout();
        for (path, at) in [
            ("/b/users/u/mount", Some(At::Target)),
            ("/b/users/u/mount/x/y", Some(At::InTarget)),
            ("/b/own/v/staged", Some(At::Staging)),
            ("/b/own/v/staged/x", None),
            ("/b/users/u", None),
            ("/b/users/u/other", None),
            ("/bb/users/u/mount", None),
            ("/", None),
        ] {
            assert_eq!(layout.at(Path::new(path)), at, "{path}");
        }
        assert_eq!(layout.workload_of(Path::new("/b/users/u/mount")), Some("u"));
        assert_eq!(layout.workload_of(Path::new("/b/users/u/mount/x")), None);
        assert_eq!(layout.staging_area(), Path::new("/b/own/area"));
    }

    #[test]
    fn a_file_tells_whose_it_is() {
        let owner = |file: &str| {
            layout()
                .owner_of_file(Path::new(file))
                .map(|(user, container)| (user.to_owned(), container.map(|name| name.to_string_lossy().into_owned())))
        };
        assert_eq!(owner("u/hosts"), Some(("u".to_owned(), None)));
        assert_eq!(owner("u/containers/c/0"), Some(("u".to_owned(), Some("c".to_owned()))));
        for other in ["u/hosts/x", "u/containers/c", "u/containers/c/0/1", "../u/hosts", "u"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn copies_are_no_publications() {
        let layout = layout();
        assert!(
            layout.is_publication(Path::new("/b/users/u/mount")) && layout.is_publication(Path::new("/b/elsewhere"))
        );
        for other in ["/b/own/v/staged", "/b/users/u/copies/0", "/elsewhere"] {
            assert!(!layout.is_publication(Path::new(other)), "{other}");
        }
    }
}
