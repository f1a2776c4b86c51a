//! Every refusal there is, made of paths of a node and of what the plugin was told elsewhere: its author reads none of that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

use std::path::PathBuf;
use std::time::Duration;

use allowlist::author::{KnownText, author};
use allowlist::names::{AbsPath, BadName, EntryName, PodIdentity, SubPath, Target, VolumeKind};
use allowlist::policy::Denied;
use engine::apply::Failed;
use engine::make_source::NotMade;
use engine::mount_error::MountError;
use engine::shortage::{Full, Room};
use frontend::csi::request::BadRequest;
use frontend::csi::status::CallError;
use mounts::propagation::{MountPropagation, PropagationState};
use mounts::{Errno, MountAttrs};
use plan::idmap::NotMappable;
use plan::record::Argument;
use plan::{Difference, MountPoint, Origin, Step};
use pods::lookup::LookupError;
use service::error::Error;
use service::heal::notice::{NotGiven, Notice};
use service::refusals::ForAuthor;
use service::source_health::SourceHealth;
use workers::NoResult;
use workers::gate::{Busy, Holder};

/// Stands in each path of the node, and in each text that comes from elsewhere.
const SECRET: &str = "of-the-node";

fn path() -> PathBuf {
    format!("/srv/{SECRET}/x").into()
}

fn secret() -> String {
    format!("https://10.0.0.1/{SECRET}: refused")
}

/// One value of each kind that a type has: one more doesn't compile until it is listed.
macro_rules! every {
    ($type:ident: $($variant:ident $({ $($named:tt)* })? $(( $($plain:tt)* ))?),+ $(,)?) => {{
        fn listed(of: &$type) {
            match of { $($type::$variant { .. } => {}),+ }
        }
        let every = vec![$($type::$variant $({ $($named)* })? $(( $($plain)* ))?),+];
        every.iter().for_each(listed);
        every
    }};
}

fn pod() -> PodIdentity {
    let [namespace, name, uid, service_account] = ["ml", "trainer-0", "uid-of-it", "trainer"].map(str::to_owned);
    PodIdentity { namespace, name, uid, service_account }
}

fn entry() -> EntryName {
    EntryName::parse("datasets").unwrap()
}

fn names() -> Vec<BadName> {
    every!(BadName:
        Empty,
        TooLong { len: 300, max: 255 },
        Control('\n'),
        Relative,
        Absolute,
        Component(format!("{SECRET}..")),
        EntryName,
        Outside(path()),
    )
}

fn requests() -> Vec<BadRequest> {
    let text = || author!["is ", KnownText::new("as given")];
    let mut all = every!(BadRequest:
        Missing("target_path"),
        Name { field: "volume_id", value: KnownText::new("as given"), reason: BadName::Empty },
        Path { field: "target_path", path: path().display().to_string(), reason: BadName::Empty },
        Value { field: text(), reason: text() },
        Block,
        UnknownAttribute { name: KnownText::new("as given"), known: "others" },
        PodUid { context: "a".to_owned(), path: SECRET.to_owned() },
        NotStaged,
    );
    for reason in names() {
        let value = KnownText::new("as given");
        all.push(BadRequest::Name { field: "volume_id", value, reason: reason.clone() });
        all.push(BadRequest::Path { field: "target_path", path: path().display().to_string(), reason });
    }
    all
}

fn denials() -> Vec<Denied> {
    let asked = MountPropagation::Bidirectional;
    let mut all = every!(Denied:
        UnknownEntry { name: entry() },
        NotPermitted { entry: entry(), pod: Some(pod().into()) },
        SubPathsOff { entry: entry(), sub_path: SubPath::parse("a/b").unwrap() },
        AboveCeiling { entry: entry(), asked, ceiling: MountPropagation::None },
        UserNamespacePropagation { entry: entry(), asked },
        ReadOnlyPropagation { entry: entry(), asked, by_entry: true },
        PodNotReadOnly { entry: entry(), by_entry: true, kind: VolumeKind::Inline },
    );
    for kind in every!(VolumeKind: Inline, Claim, GenericEphemeral, ClaimOrGenericEphemeral) {
        all.push(Denied::PodNotReadOnly { entry: entry(), by_entry: false, kind });
    }
    all.push(Denied::NotPermitted { entry: entry(), pod: None });
    all.push(Denied::ReadOnlyPropagation { entry: entry(), asked, by_entry: false });
    all
}

fn differences() -> Vec<Difference> {
    let (wished, found) = (MountPropagation::None, MountPropagation::Bidirectional);
    let mut all = every!(Difference:
        Directory,
        Relation { wished, found },
        ReadOnly { wished: true },
        Attrs { wished: MountAttrs::default(), found: MountAttrs::default() },
        Missing,
        Gone,
    );
    all.push(Difference::ReadOnly { wished: false });
    all
}

const ERRNOS: [Errno; 7] =
    [Errno::ENOSPC, Errno::EDQUOT, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE, Errno::EACCES, Errno::ENOTCONN];

fn mounts() -> Vec<MountError> {
    let (asked, found) = (MountPropagation::Bidirectional, PropagationState::default());
    let step = Step::Bind(Origin::Source);
    let failed = |undo| Failed { step, errno: Errno::EPERM, undo };
    let errno = Errno::EACCES;
    let mut all = every!(MountError:
        SourceMissing { path: path() },
        SourceSymlink { path: path() },
        SourceNotDirectory { path: path() },
        SourceDead { path: path(), errno },
        Source { path: path(), errno },
        SourcePrivate { path: path(), asked, found },
        SourceUnbindable { path: path() },
        SourceNotMappable(NotMappable::Mapped),
        SourceNotMade { path: path(), why: NotMade::Busy },
        OtherArguments { path: path(), argument: Argument::ReadOnly { asked: true } },
        TargetParentMissing { path: path() },
        TargetSymlink { path: path() },
        TargetNotDirectory { path: path() },
        TargetNotEmpty { path: path() },
        TargetDiffers { path: path(), difference: Difference::Directory },
        Target { path: path(), errno },
        KubeletDir { path: path(), errno },
        StagingArea { path: path(), errno },
        NotPublished { path: path() },
        SecondWriter { other: path() },
        TooManyMounts { path: path(), full: Full::Callers, room: Room { mounts: Some(7), most: Some(7) } },
        Step { failed: failed(Ok(())) },
        Drift { path: path(), difference: Difference::Directory },
        VolumeDead { path: path(), errno },
        Cancelled,
    );
    let whys = every!(NotMade: FileSystem, NoBirthTime, Exchanged, InTheWay, Busy);
    all.extend(whys.into_iter().map(|why| MountError::SourceNotMade { path: path(), why }));
    let sub_path = Some(SubPath::parse("a/b").unwrap());
    let mut arguments = every!(Argument:
        VolumeId { found: "csi-1".to_owned() },
        Pod { found: pod().into() },
        User { found: SECRET.into() },
        Directory { entry: entry(), sub_path },
        Propagation { asked: Some(asked), found: None },
        ReadOnly { asked: false },
        PodReadOnly { asked: true },
    );
    arguments.push(Argument::Directory { entry: entry(), sub_path: None });
    arguments.push(Argument::PodReadOnly { asked: false });
    all.extend(arguments.into_iter().map(|argument| MountError::OtherArguments { path: path(), argument }));
    all.extend(every!(NotMappable: FileSystem("fuse".to_owned()), Mapped, Mounts(2)).into_iter().map(Into::into));
    all.push(MountError::TooManyMounts { path: path(), full: Full::Receivers, room: Room::default() });
    all.push(MountError::Step { failed: failed(Err((Step::Detach(MountPoint::Slot), Errno::EBUSY))) });
    for difference in differences() {
        all.push(MountError::TargetDiffers { path: path(), difference });
        all.push(MountError::Drift { path: path(), difference });
    }
    for errno in ERRNOS {
        all.push(MountError::Source { path: path(), errno });
        all.push(MountError::Target { path: path(), errno });
        all.push(MountError::KubeletDir { path: path(), errno });
        all.push(MountError::StagingArea { path: path(), errno });
        all.push(MountError::Step { failed: Failed { step, errno, undo: Ok(()) } });
    }
    all
}

/// What pods are told of healing.
fn notices() -> Vec<Notice> {
    let mut all = every!(Notice: Renewed, NotGiven(NotGiven::SharedWithOthers), NotFollowed);
    let whys = every!(NotGiven: Denied(denials().remove(0)), OtherDirectory(entry()), SharedWithOthers);
    all.extend(whys.into_iter().map(Notice::NotGiven));
    all
}

fn lookups() -> Vec<LookupError> {
    let kubelet = AbsPath::parse("/srv").unwrap();
    let target = Target::parse(path().to_str().unwrap(), &kubelet).unwrap();
    let name = || "ml/trainer-0".to_owned();
    every!(LookupError:
        NotAPodVolume { path: target },
        NoPodInfo,
        PodUnseen { pod: pod().into(), waited: Duration::from_secs(10), why: secret() },
        OtherPod { pod: pod().into(), is: format!("{SECRET}/x") },
        OtherAccount { pod: pod().into(), is: SECRET.to_owned() },
        NoVolume { pod: name(), volume: "v".to_owned() },
        PersistentVolume { pod: name(), volume: "pv-1".to_owned(), why: secret() },
    )
}

fn none() -> Vec<NoResult> {
    let mut all = every!(NoResult:
        Deadline { waited: Duration::from_secs(30), source_name: path().display().to_string() },
        Stuck { stuck: 4, source_name: path().display().to_string() },
        Exhausted { stuck: 448 },
        NoThread(Errno::EAGAIN),
        Lost,
    );
    all.extend(ERRNOS.map(NoResult::NoThread));
    all
}

fn calls() -> Vec<CallError> {
    let mut all = every!(CallError:
        Request(BadRequest::Block),
        Service(Error::Busy(Busy { path: path(), holder: Holder::Own })),
        Caller(secret()),
    );
    let service = every!(Error:
        Denied(Denied::UnknownEntry { name: entry() }),
        Busy(Busy { path: path(), holder: Holder::Own }),
        NoResult(NoResult::Lost),
        Mount(MountError::Cancelled),
        Lookup(LookupError::NoPodInfo),
        NoConfiguration(secret()),
    );
    all.extend(service.into_iter().map(Into::into));
    all.extend(requests().into_iter().map(Into::into));
    all.extend(denials().into_iter().map(|error| Error::from(error).into()));
    all.extend(none().into_iter().map(|error| Error::from(error).into()));
    all.extend(mounts().into_iter().map(|error| Error::from(error).into()));
    all.extend(lookups().into_iter().map(|error| Error::from(error).into()));
    all
}

#[test]
fn no_text_for_a_pod_s_author_has_a_path_of_the_node() {
    let all = calls();
    let mut with_paths = 0;
    for error in &all {
        let (author, administrator) = (error.for_author().to_string(), error.to_string());
        assert!(!author.contains(SECRET) && !author.contains("/srv"), "{error:?}: {author}");
        assert!(author.len() > 10 && !author.ends_with(' '), "{error:?}: {author}");
        with_paths += usize::from(administrator.contains(SECRET));
    }
    // The administrator reads them: what is left out above is there to be left out.
    assert!(with_paths > 60, "{with_paths} of {} texts for the administrator have a path", all.len());
    for health in every!(SourceHealth: Live, Dead(Errno::ENOTCONN), Hung, Deleted) {
        let author = health.for_author().to_string();
        assert!(!author.is_empty() && !author.contains('/'), "{author}");
    }
    for notice in notices() {
        let author = notice.for_author().to_string();
        assert!(!author.is_empty() && !author.contains(SECRET) && !author.contains("/srv"), "{author}");
    }
}

#[test]
fn a_refusal_tells_what_was_asked_and_whom_to_ask() {
    let text = |error: Error| error.for_author().to_string();
    let missing = text(MountError::SourceMissing { path: path() }.into());
    assert_eq!(
        missing,
        "the volume's directory does not exist on the node: correct the volume, or ask the administrator of the node to create it"
    );
    let above = Denied::AboveCeiling {
        entry: entry(),
        asked: MountPropagation::Bidirectional,
        ceiling: MountPropagation::None,
    };
    let above = text(above.into());
    assert!(above.contains("Bidirectional") && above.contains("datasets allows None at most"), "{above}");
    let sub_path = SubPath::parse("a b").unwrap();
    assert!(text(Denied::SubPathsOff { entry: entry(), sub_path }.into()).contains("\"a b\""));
}
