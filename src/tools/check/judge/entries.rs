//! Judges the allow-list and the directories of its entries.

use std::path::{Path, PathBuf};

use allowlist::config::{Entry, Fault, Missing};
use mounts::propagation::{MountPropagation, PropagationState};
use plan::strongest;
use text::quoted;

use super::super::facts::{CAP_CHOWN, Directory, DirectoryState, Facts, List};
use super::super::report::{Item, Section};
use super::on_node;

/// How many of the mounts beneath a directory are named.
const NAMED: usize = 3;

pub(super) fn judge(facts: &Facts, items: &mut Vec<Item>) {
    match &facts.list {
        List::NotNamed => items.push(
            Item::skipped(Section::AllowList, "allowList", "allow-list", "none was named, so no entry is checked")
                .advise("name it: --config FILE"),
        ),
        List::Unreadable(path, why) => items.push(
            Item::fault(Section::AllowList, "allowList", path.display().to_string(), why)
                .advise("name the allow-list with --config FILE; without one the plugin refuses every volume"),
        ),
        List::Faulty(path, faults) => {
            let item = |fault: &Fault| {
                Item::fault(Section::AllowList, "allowList", path.display().to_string(), fault.to_string())
            };
            items.extend(faults.0.iter().map(item));
        }
        List::Good(path, entries) if entries.is_empty() => items.push(
            Item::warning(Section::AllowList, "allowList", path.display().to_string(), "has no entries")
                .advise("add some: until then every volume is refused"),
        ),
        List::Good(path, entries) => {
            let count = if entries.len() == 1 { "1 entry".to_owned() } else { format!("{} entries", entries.len()) };
            let found = format!("{count}, no fault in the text");
            items.push(Item::ok(Section::AllowList, "allowList", path.display().to_string(), found));
            for (entry, seen) in entries {
                let mut of_entry = Vec::new();
                if facts.node.is_ok() {
                    source(facts, entry, seen, &mut of_entry);
                } else {
                    let why = "not looked at, because the kubelet's mount namespace could not be entered";
                    of_entry.push(Item::skipped(Section::Entries, "source", entry.path.to_string(), why));
                }
                if entry.allow.is_empty() {
                    let item = Item::warning(Section::Entries, "allow", "allow", "is empty: no pod may use the entry");
                    of_entry.push(item.advise("add a rule, such as allow: [{namespaces: [NAMESPACE]}]"));
                }
                let name = Some(entry.name.to_string());
                items.extend(of_entry.into_iter().map(|item| Item { entry: name.clone(), ..item }));
            }
        }
    }
}

fn source(facts: &Facts, entry: &Entry, seen: &DirectoryState, items: &mut Vec<Item>) {
    let path = entry.path.as_path();
    let fault = |found: String| Item::fault(Section::Entries, "source", entry.path.to_string(), found);
    items.push(match seen {
        DirectoryState::Directory(directory) => return open(facts, entry, directory, items),
        DirectoryState::Missing => return missing(facts, entry, items),
        DirectoryState::Symlink(to) => {
            let item = fault("leads over a symlink; none is followed".to_owned());
            match to {
                Some(to) => item.advise(format!("write path: {}", to.display())),
                None => item.advise("write the path that it leads to"),
            }
        }
        DirectoryState::NotADirectory => {
            fault("is not a directory".to_owned()).advise("name a directory: no file can be a volume")
        }
        DirectoryState::Dead(errno) => fault(format!("is dead ({errno:?}): the server of its file system is gone"))
            .advise("restart the server; if the directory stays dead, unmount it first")
            .run(on_node(facts, &format!("findmnt --target {}", quoted(path))))
            .run(on_node(facts, &format!("umount --lazy {}", quoted(path)))),
        DirectoryState::Hung => {
            fault(format!("did not answer within {:?}: the server of its file system hangs", facts.timeout))
                .advise(
                    "look whether the server runs and can be reached; each volume of it fails with DEADLINE_EXCEEDED",
                )
                .run(on_node(facts, &format!("findmnt --target {}", quoted(path))))
        }
        DirectoryState::Refused(errno) => fault(format!("can't be opened: {errno:?}")).advise(format!(
            "the plugin runs as root without CAP_DAC_OVERRIDE: let root, or everybody, pass through {}",
            path.parent().unwrap_or(path).display()
        )),
        DirectoryState::Unknown => fault("could not be looked at".to_owned()).advise("run the check again"),
    });
}

fn missing(facts: &Facts, entry: &Entry, items: &mut Vec<Item>) {
    let at = entry.path.to_string();
    items.push(match entry.missing {
        Missing::Create { uid, gid, .. } if (uid, gid) != (0, 0) && !facts.own.holds(CAP_CHOWN) => {
            let found = format!("is not there, and can't be made for {uid}:{gid}: CAP_CHOWN is not held");
            Item::fault(Section::Entries, "source", at, found)
                .advise("make it on the node, or add CHOWN to the container's capabilities")
                .run(on_node(facts, &format!("install -d -o {uid} -g {gid} {}", quoted(entry.path.as_path()))))
        }
        Missing::Create { .. } => {
            Item::ok(Section::Entries, "source", at, "is not there; the first volume makes it (missing: create)")
        }
        Missing::Fail => Item::fault(Section::Entries, "source", at, "is not there")
            .advise("mount or make it, or set missing: {create: {}} for the entry")
            .run(on_node(facts, &format!("mkdir -p {}", quoted(entry.path.as_path())))),
    });
}

/// How a publish would judge the mount, and what it would leave out.
fn open(facts: &Facts, entry: &Entry, directory: &Directory, items: &mut Vec<Item>) {
    let path = entry.path.as_path();
    let mount = directory.mount_point.as_deref().unwrap_or(path);
    let state = directory.propagation;
    let on = match &directory.fs_type {
        Some(kind) => format!("{} (on the mount {}, {kind})", entry.path, mount.display()),
        None => entry.path.to_string(),
    };
    if state.unbindable {
        let item = Item::fault(Section::Entries, "bindable", on, "is unbindable, so no volume can be made of it");
        items.push(
            item.advise("take that back").run(on_node(facts, &format!("mount --make-private {}", quoted(mount)))),
        );
    } else if entry.ceiling > strongest(state) {
        let found = format!("is {state}, so no mount can cross, but the entry allows {}", entry.ceiling);
        let item = Item::fault(Section::Entries, "shared", on, found)
            .advise("make it shared, now and at boot, or lower the entry's propagation");
        items.push(share(facts, path, mount).into_iter().fold(item, Item::run));
    } else {
        let up_to = match entry.ceiling {
            MountPropagation::None => "enough for None".to_owned(),
            more => format!("enough for {more}"),
        };
        items.push(Item::ok(Section::Entries, "source", on, format!("is there and alive, {state}: {up_to}")));
        items.extend(nested(facts, entry, directory));
    }
}

/// The commands that make a directory's mount shared. The root directory's mount is left as it is: what lies on it
/// becomes a mount of its own.
fn share(facts: &Facts, path: &Path, mount: &Path) -> Vec<String> {
    let quoted_path = quoted(path);
    if mount == Path::new("/") && path != mount {
        vec![
            on_node(facts, &format!("mount --rbind {quoted_path} {quoted_path}")),
            on_node(facts, &format!("mount --make-rshared {quoted_path}")),
        ]
    } else {
        vec![on_node(facts, &format!("mount --make-rshared {}", quoted(mount)))]
    }
}

/// Mounts beneath the directory that pass nothing on: what is mounted on *them* later doesn't cross.
fn nested(facts: &Facts, entry: &Entry, directory: &Directory) -> Option<Item> {
    let (unbindable, private): (Vec<_>, Vec<_>) = directory
        .nested
        .iter()
        .filter(|(_, state)| strongest(*state) < entry.ceiling || state.unbindable)
        .partition(|(_, state)| state.unbindable);
    let names = |list: &[&(PathBuf, PropagationState)]| {
        let mut text: Vec<String> = list.iter().take(NAMED).map(|(path, _)| path.display().to_string()).collect();
        if list.len() > NAMED {
            text.push(format!("{} more", list.len() - NAMED));
        }
        text.join(", ")
    };
    let mut found = Vec::new();
    if !unbindable.is_empty() {
        found.push(format!("no pod sees {}, unbindable", names(&unbindable)));
    }
    if !private.is_empty() {
        found.push(format!("what is mounted later below {} does not cross", names(&private)));
    }
    let first = private.first().or(unbindable.first())?;
    let looked_at = format!("{} mounts beneath {}", directory.nested.len(), entry.path);
    let item = Item::warning(Section::Entries, "nested", looked_at, found.join("; "));
    let command = format!("mount --make-rshared {}", quoted(&first.0));
    Some(item.advise("make them shared where that matters").run(on_node(facts, &command)))
}
