// What is done with the bytes: shared by the fuzz targets and by tests/corpus.rs, which replays the corpus.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use allowlist::config::AllowList;
use allowlist::names::{AbsPath, EntryName, SubPath, Target, VolumeRef};
use allowlist::policy::{self, Wish};
use frontend::csi::request::{self, handle};
use frontend::csi::status::{CallError, status};
use model::machine::{Machine, Namespace, Process, names};
use mounts::mountinfo::{self, Table, Walk};
use plan::healing;
use plan::record::Record;
use pods::target_path;
use prost::Message;
use service::refusals::ForAuthor;
use service::request::Publish;
use tools::inspect::columns::{Column, View};
use tools::inspect::draw::{self, Style};
use tools::inspect::select::{self, Filter};
use tools::inspect::{json, subtree};
use tools::mount_tree;
use wire::{csi, registration};

fn kubelet_dir() -> AbsPath {
    AbsPath::parse("/var/lib/kubelet").unwrap()
}

pub fn config(bytes: &[u8]) {
    match AllowList::parse_bytes(bytes, &kubelet_dir()) {
        // Whatever is taken up can be asked, and compared with itself.
        Ok(list) => {
            for entry in list.iter() {
                assert!(list.get(&entry.name).is_some());
                assert!(!entry.path.overlaps(&kubelet_dir()), "an entry reaches the kubelet's directory");
                let _ = entry.permits(None);
            }
            let same = list.changes(&list);
            assert!(same.added.is_empty() && same.removed.is_empty() && same.changed.is_empty());
        }
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
}

pub fn mountinfo(bytes: &[u8]) {
    let table = mountinfo::parse(bytes);
    inspect(&table);
    let walk = Walk::new(&table);
    let layout = frontend::kubelet::layout(&kubelet_dir(), "csi.hostmount.dev");
    for mount in table.mounts.iter().take(64) {
        let _ = table.beneath(mount.id);
        let _ = walk.mount_at(&mount.mount_point);
        let _ = walk.lowest(mount);
        let _ = mount.shown_at(&mount.mount_point);
        let _ = table.bound_from(mount.id, &mount.mount_point).count();
        assert!(!plan::detach_steps(&table, mount.id).is_empty());
    }
    let record = Record::parse(
        br#"{"entry":"e","path":"/src","propagation":"HostToContainer","readOnly":false,"nosuid":true,
        "nodev":true,"noexec":false,"sourceMount":1,"pathMounts":{"top":1,"newest":0,"beneath":""}}"#,
    );
    for target in healing::targets(&table, &layout) {
        let _ = healing::judge((&table, &walk), &layout, (target, record.as_ref().unwrap()));
    }
}

/// What `hostmount inspect` makes of a table, which is here that of two namespaces at once.
fn inspect(table: &Table) {
    let rows = mount_tree::rows(table);
    let told = subtree::tell(table, &rows);
    assert_eq!((rows.len(), told.len()), (table.mounts.len(), table.mounts.len()), "each mount once");
    for told in &told {
        assert_eq!(told.is_mixed(), !told.note().is_empty());
        assert_eq!(told.counts.iter().sum::<usize>(), told.beneath);
    }
    let _ = table.tear();
    let _ = names::kubelet_files(table);
    let of = |inode, pid| Namespace {
        inode,
        processes: vec![Process { pid, name: "p\u{1b}".into() }],
        table: table.clone(),
        ..Namespace::default()
    };
    let machine = Machine { namespaces: vec![of(1, 1), of(2, 2)], left_out: vec![] };
    let view = View::new(&machine, 2);
    let everything = Filter { own: Some(1), ..Filter::default() };
    let chosen = select::choose(&machine, &everything).unwrap();
    let columns: Vec<Column> = Column::ALL.iter().map(|(column, ..)| *column).collect();
    let style = Style { columns, width: Some(80), ascii: false, colour: false, headings: true };
    let harmless = |text: &str| assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    for chosen in &chosen {
        harmless(&draw::tree(&view, chosen, None, &style));
        harmless(&draw::tree(&view, chosen, Some(0), &style));
    }
    harmless(&draw::list(&view, &chosen, &style, true));
    assert!(serde_json::to_string(&json::Document::of(&view, &chosen)).is_ok());
    for mount in table.mounts.iter().take(8) {
        let filter = Filter { path: Some(mount.mount_point.clone()), ..everything.clone() };
        let _ = select::choose(&machine, &filter);
        let filter = Filter { volume: Some("v".into()), ..filter };
        let _ = select::choose(&machine, &filter);
    }
}

pub fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let group = names::group(&text);
    assert!(group.container.is_none_or(|id| id.len() == 64));
    let _ = names::log_directory(OsStr::from_bytes(bytes));
    let _ = names::namespace_link(OsStr::from_bytes(bytes));
    let _ = Record::parse(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(volume) = VolumeRef::parse_handle(text) {
        assert_eq!(volume.to_string(), text, "a handle has one spelling");
        assert!(handle(text).is_ok());
    }
    if let Ok(name) = EntryName::parse(text) {
        assert_eq!(name.as_str(), text);
    }
    let escapes = |path: &Path| path.iter().any(|part| part == ".." || part == ".");
    if let Ok(path) = SubPath::parse(text) {
        assert!(path.as_path().is_relative() && !escapes(path.as_path()), "{text:?}");
    }
    if let Ok(path) = AbsPath::parse(text) {
        assert!(path.as_path().is_absolute() && !escapes(path.as_path()), "{text:?}");
    }
    if let Ok(path) = Target::parse(text, &kubelet_dir()) {
        assert!(path.as_path().starts_with("/var/lib/kubelet/") && !escapes(path.as_path()), "{text:?}");
        assert!(path.relative().is_relative());
        let _ = (target_path::pod_uid(&path), target_path::pod_volume(&path));
    }
}

/// The first byte says which request the others are.
pub fn messages(bytes: &[u8]) {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    let dir = kubelet_dir();
    let list = AllowList::parse(
        "entries:\n  - {name: data, path: /mnt/data, propagation: rshared, subPaths: true, allow: [{namespaces: ['*']}]}\n",
        &dir,
    )
    .unwrap();
    let refuse = |error: CallError| assert!(!status(&error, &error.for_author()).message().is_empty());
    match which % 8 {
        0 => {
            let Ok(message) = csi::NodePublishVolumeRequest::decode(bytes) else { return };
            let _ = format!("{message:?}");
            match request::publish(&message, &dir) {
                Ok(asked) => {
                    let kind = asked.kind();
                    let Publish { volume, asked, user, .. } = asked;
                    let (propagation, read_only, pod_read_only) =
                        (asked.propagation, asked.read_only, asked.pod_read_only);
                    let user_namespace = false;
                    let wish = Wish {
                        volume,
                        propagation,
                        read_only,
                        pod_read_only,
                        kind,
                        user_namespace,
                        pod: user.pod().cloned(),
                        check_user: true,
                    };
                    match policy::decide(&list, &wish) {
                        Ok(grant) => {
                            assert!(grant.propagation <= grant.entry.ceiling);
                            assert_eq!(grant.read_only, pod_read_only);
                        }
                        Err(denied) => refuse(service::error::Error::from(denied).into()),
                    }
                }
                Err(bad) => refuse(bad.into()),
            }
        }
        1 => {
            let Ok(message) = csi::NodeStageVolumeRequest::decode(bytes) else { return };
            let _ = format!("{message:?}");
            if let Err(bad) = request::stage(&message, &dir) {
                refuse(bad.into());
            }
        }
        2 => {
            let Ok(message) = csi::NodeUnpublishVolumeRequest::decode(bytes) else { return };
            if let Err(bad) = request::volume_at(&message.volume_id, "target_path", &message.target_path, &dir) {
                refuse(bad.into());
            }
        }
        3 => {
            let Ok(message) = csi::NodeUnstageVolumeRequest::decode(bytes) else { return };
            let path = &message.staging_target_path;
            if let Err(bad) = request::volume_at(&message.volume_id, "staging_target_path", path, &dir) {
                refuse(bad.into());
            }
        }
        4 => {
            let Ok(message) = csi::NodeGetVolumeStatsRequest::decode(bytes) else { return };
            if let Err(bad) = request::volume_to_look_at(&message.volume_id, "volume_path", &message.volume_path, &dir)
            {
                refuse(bad.into());
            }
        }
        5 => {
            let Ok(message) = csi::NodeGetVolumeHealthRequest::decode(bytes) else { return };
            let path = &message.volume_publish_path;
            if let Err(bad) = request::volume_to_look_at(&message.volume_id, "volume_publish_path", path, &dir) {
                refuse(bad.into());
            }
        }
        6 => {
            let _ = csi::NodeExpandVolumeRequest::decode(bytes).map(|message| format!("{message:?}"));
            let _ = csi::NodeGetStorageHealthRequest::decode(bytes);
            let _ = csi::NodeGetInfoRequest::decode(bytes);
            let _ = csi::NodeGetCapabilitiesRequest::decode(bytes);
            let _ = csi::ProbeRequest::decode(bytes);
            let _ = csi::GetPluginInfoRequest::decode(bytes);
            let _ = csi::GetPluginCapabilitiesRequest::decode(bytes);
        }
        _ => {
            let _ = registration::InfoRequest::decode(bytes);
            let _ = registration::RegistrationStatus::decode(bytes).map(|message| format!("{message:?}"));
        }
    }
}
