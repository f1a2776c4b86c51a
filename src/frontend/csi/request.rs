//! Parses messages into typed requests. Every INVALID_ARGUMENT is made here. Nothing after it sees a raw string.
//!
//! Checks what CSI and the kubelet put into a request field by field, in the order of the specification. So the first
//! error is about the first wrong field.
#![expect(clippy::disallowed_methods, reason = "what the author has written into the request")]

use std::collections::HashMap;
use std::sync::Arc;

use allowlist::author::{AuthorText, KnownText, author};
use allowlist::names::{AbsPath, BadName, EntryName, HANDLE_MAX, PodIdentity, SubPath, Target, User, VolumeRef};
use csi::volume_capability::AccessType;
use csi::volume_capability::access_mode::Mode;
use mounts::MountAttrs;
use mounts::propagation::{MountPropagation, UnknownPropagation};
use plan::record::Asked;
use pods::target_path;
use service::refusals::{ASK, ForAuthor};
use service::request::{Publish, Stage, VolumeAt};
use text::cut::Cut;
use wire::csi;

/// The maximum length of a volume attribute's value, in bytes: that of a path.
const ATTRIBUTE_MAX: usize = 4096;

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// A required field is empty.
    #[error("{0} is required and was not given")]
    Missing(&'static str),
    /// A name that the volume's author has given is invalid.
    #[error("{field} {value} {reason}")]
    Name {
        /// The field.
        field: &'static str,
        /// What was given.
        value: KnownText,
        /// What is wrong with it.
        reason: BadName,
    },
    /// A path that the kubelet has given is invalid.
    #[error("{field} {path:?} {reason}")]
    Path {
        /// The field.
        field: &'static str,
        /// What was given, cut to a readable length.
        path: String,
        /// What is wrong with it.
        reason: BadName,
    },
    /// A value is none of the possible ones.
    #[error("{field}: {reason}")]
    Value {
        /// The field.
        field: AuthorText,
        /// What is wrong with it.
        reason: AuthorText,
    },
    /// The request is for a block device, which the driver doesn't offer.
    #[error(
        "a raw block volume (volumeMode: Block) was asked for: hostmount publishes directories only; use volumeMode: Filesystem"
    )]
    Block,
    /// A volume attribute is unknown.
    #[error("the volume attribute {name} is unknown: {known} are known")]
    UnknownAttribute {
        /// The attribute.
        name: KnownText,
        /// The known ones.
        known: &'static str,
    },
    /// The pod's uid in the context isn't the one in the target path.
    #[error("the volume context says pod uid {context:?}, but target_path is of pod {path:?}")]
    PodUid {
        /// The uid in the context.
        context: String,
        /// The uid in the path.
        path: String,
    },
    /// `staging_target_path` is missing for a volume that is staged.
    #[error(
        "staging_target_path was not given, but persistent volumes are staged (capability STAGE_UNSTAGE_VOLUME): call NodeStageVolume first and pass its path"
    )]
    NotStaged,
}

impl ForAuthor for BadRequest {
    fn for_author(&self) -> AuthorText {
        match self {
            Self::Missing(field) => author![*field, " is required and was not given"],
            Self::Name { field, value, reason } => author![*field, " ", *value, " ", reason.for_author()],
            Self::Path { field, path: _, reason } => {
                author![*field, ", which the kubelet has given, ", reason.for_author(), ": ", ASK]
            }
            Self::Value { field, reason } => author![*field, ": ", *reason],
            Self::Block => author![
                "a raw block volume (volumeMode: Block) was asked for: hostmount publishes directories only; use \
                 volumeMode: Filesystem"
            ],
            Self::UnknownAttribute { name, known } => {
                author!["the volume attribute ", *name, " is unknown: ", *known, " are known"]
            }
            Self::PodUid { context: _, path: _ } => author![
                "the volume context says another pod uid than target_path has: leave out the attributes that the kubelet \
                 sets, or ",
                ASK
            ],
            Self::NotStaged => author![
                "staging_target_path was not given, but persistent volumes are staged (capability STAGE_UNSTAGE_VOLUME): \
                 NodeStageVolume has to be called first"
            ],
        }
    }
}

/// How much of a text from a caller is shown in an error.
const SHOWN: Cut = Cut::characters(120);

fn named(field: &'static str, value: &str) -> impl FnOnce(BadName) -> BadRequest {
    move |reason| BadRequest::Name { field, value: KnownText::new(value), reason }
}

fn required<'a>(field: &'static str, value: &'a str) -> Result<&'a str, BadRequest> {
    if value.is_empty() { Err(BadRequest::Missing(field)) } else { Ok(value) }
}

fn kubelet_path(field: &'static str, value: &str, kubelet_dir: &AbsPath) -> Result<Target, BadRequest> {
    let path = required(field, value)?;
    Target::parse(path, kubelet_dir).map_err(|reason| BadRequest::Path {
        field,
        path: SHOWN.apply(path).into_owned(),
        reason,
    })
}

/// A volume id of any form. An inline volume's is the kubelet's `csi-…`.
fn volume_id(value: &str) -> Result<&str, BadRequest> {
    let value = required("volume_id", value)?;
    let bad = if value.len() > HANDLE_MAX {
        Some(BadName::TooLong { len: value.len(), max: HANDLE_MAX })
    } else {
        value.chars().find(|c| c.is_control()).map(BadName::Control)
    };
    bad.map_or(Ok(value), |reason| Err(named("volume_id", value)(reason)))
}

/// The directory that a persistent volume's handle names.
///
/// # Errors
/// [`BadRequest`].
pub fn handle(id: &str) -> Result<VolumeRef, BadRequest> {
    VolumeRef::parse_handle(volume_id(id)?).map_err(named("volume_id", id))
}

fn unknown(word: &str, why: &UnknownPropagation) -> AuthorText {
    author![KnownText::new(word), " is not a propagation type: use one of ", why.expected]
}

struct Capability {
    read_only: bool,
    single_writer: bool,
    propagation: Option<MountPropagation>,
    attrs: MountAttrs,
}

fn capability(given: Option<&csi::VolumeCapability>) -> Result<Capability, BadRequest> {
    let given = given.ok_or(BadRequest::Missing("volume_capability"))?;
    let mount = match &given.access_type {
        None => return Err(BadRequest::Missing("volume_capability.access_type")),
        Some(AccessType::Block(_)) => return Err(BadRequest::Block),
        Some(AccessType::Mount(mount)) => mount,
    };
    let bad_value = |field: &'static str, reason| BadRequest::Value { field: author![field], reason };
    if !mount.volume_mount_group.is_empty() {
        return Err(bad_value(
            "volume_capability.mount.volume_mount_group",
            author![
                "changing the group of a node's directory is not offered: set fsGroupPolicy: None on the CSIDriver object"
            ],
        ));
    }
    let mode = given.access_mode.as_ref().ok_or(BadRequest::Missing("volume_capability.access_mode"))?.mode;
    let field = "volume_capability.access_mode";
    let (read_only, single_writer) = match Mode::try_from(mode) {
        Ok(Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly) => (true, false),
        Ok(Mode::SingleNodeSingleWriter) => (false, true),
        // The driver sees only one node, so it can't know who writes on other nodes. For a directory of the node, or a
        // network file system mounted there, that is no reason to refuse.
        Ok(
            Mode::SingleNodeWriter
            | Mode::SingleNodeMultiWriter
            | Mode::MultiNodeSingleWriter
            | Mode::MultiNodeMultiWriter,
        ) => (false, false),
        Ok(Mode::Unknown) => return Err(bad_value(field, author!["UNKNOWN is no access mode: set one"])),
        Err(_) => return Err(bad_value(field, author![mode, " is no access mode that CSI 1.13 has"])),
    };
    let mut found = Capability { read_only, single_writer, propagation: None, attrs: MountAttrs::default() };
    for option in mount.mount_flags.iter().flat_map(|flag| flag.split(',')) {
        match option {
            "ro" => found.read_only = true,
            "nosuid" => found.attrs.nosuid = true,
            "nodev" => found.attrs.nodev = true,
            "noexec" => found.attrs.noexec = true,
            "rw" | "bind" | "rbind" => {}
            word => {
                let propagation = word.parse().map_err(|_: UnknownPropagation| {
                    bad_value(
                        "volume_capability.mount.mount_flags",
                        author![
                            KnownText::new(word),
                            " is unknown: ro, rw, nosuid, nodev, noexec, rprivate, rslave, rshared are known"
                        ],
                    )
                })?;
                found.propagation = Some(propagation);
            }
        }
    }
    Ok(found)
}

#[derive(Default)]
struct Context {
    volume: Option<EntryName>,
    sub_path: Option<SubPath>,
    propagation: Option<MountPropagation>,
    read_only: bool,
    ephemeral: Option<bool>,
    pod: Option<Arc<PodIdentity>>,
}

/// The attribute that names the entry of an inline volume.
pub(crate) const VOLUME: &str = "volume";
/// The attribute that names the sub-path.
pub(crate) const SUB_PATH: &str = "subPath";
const KUBELET_PREFIX: &str = "csi.storage.k8s.io/";
/// The volume context's key for the pod's name.
pub(super) const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
/// The volume context's key for the pod's namespace.
pub(super) const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";

fn context(given: &HashMap<String, String>) -> Result<Context, BadRequest> {
    let mut found = Context::default();
    let bad =
        |name: &str, reason| BadRequest::Value { field: author!["volume attribute ", KnownText::new(name)], reason };
    let mut names: Vec<&String> = given.keys().collect();
    // A map has no order, but errors should have one.
    names.sort();
    for name in names {
        let value = &given[name];
        // A token is long, and not ours to read.
        if value.len() > ATTRIBUTE_MAX && !name.starts_with(KUBELET_PREFIX) {
            return Err(bad(name, author!["has ", value.len(), " bytes, over the limit of ", ATTRIBUTE_MAX]));
        }
        let boolean = || match value.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(bad(name, author![KnownText::new(other), " is neither \"true\" nor \"false\""])),
        };
        match name.as_str() {
            VOLUME => {
                found.volume = Some(EntryName::parse(value).map_err(named("volume attribute \"volume\"", value))?);
            }
            SUB_PATH => {
                found.sub_path = Some(SubPath::parse(value).map_err(named("volume attribute \"subPath\"", value))?);
            }
            "propagation" => {
                found.propagation = Some(value.parse().map_err(|e: UnknownPropagation| bad(name, unknown(value, &e)))?);
            }
            "readOnly" => found.read_only = boolean()?,
            "csi.storage.k8s.io/ephemeral" => found.ephemeral = Some(boolean()?),
            // Keys of the kubelet and the provisioner. Those about the pod are read together below.
            other if other.starts_with(KUBELET_PREFIX) || other.starts_with("storage.kubernetes.io/") => {}
            _ => {
                return Err(BadRequest::UnknownAttribute {
                    name: KnownText::new(name),
                    known: "volume and subPath (inline volumes), propagation, readOnly",
                });
            }
        }
    }
    let pod = |key: &str| given.get(key).filter(|v| !v.is_empty()).cloned();
    if let (Some(namespace), Some(name), Some(uid)) = (pod(POD_NAMESPACE), pod(POD_NAME), pod(POD_UID)) {
        let service_account = pod(SERVICE_ACCOUNT).unwrap_or_else(|| "default".to_owned());
        found.pod = Some(Arc::new(PodIdentity { namespace, name, uid, service_account }));
    }
    Ok(found)
}

fn persistent(id: &str, context: &Context) -> Result<VolumeRef, BadRequest> {
    if context.volume.is_some() || context.sub_path.is_some() {
        return Err(BadRequest::UnknownAttribute {
            name: KnownText::new(if context.volume.is_some() { VOLUME } else { SUB_PATH }),
            known: "for a persistent volume, whose handle names entry and sub-path, propagation and readOnly",
        });
    }
    handle(id)
}

/// Reads a NodeStageVolume request.
///
/// # Errors
/// [`BadRequest`].
pub fn stage(message: &csi::NodeStageVolumeRequest, kubelet_dir: &AbsPath) -> Result<Stage, BadRequest> {
    let id = volume_id(&message.volume_id)?;
    let staging = kubelet_path("staging_target_path", &message.staging_target_path, kubelet_dir)?;
    capability(message.volume_capability.as_ref())?;
    let volume = persistent(id, &context(&message.volume_context)?)?;
    Ok(Stage { volume, staging })
}

/// Reads a NodePublishVolume request.
///
/// # Errors
/// [`BadRequest`].
pub fn publish(message: &csi::NodePublishVolumeRequest, kubelet_dir: &AbsPath) -> Result<Publish, BadRequest> {
    let id = volume_id(&message.volume_id)?;
    let target = kubelet_path("target_path", &message.target_path, kubelet_dir)?;
    let capability = capability(message.volume_capability.as_ref())?;
    let context = context(&message.volume_context)?;
    // Without podInfoOnMount, nothing tells whether a volume is inline. Then the attribute that only inline volumes
    // have decides.
    let inline = context.ephemeral.unwrap_or(context.volume.is_some());
    let (volume, staging) = if inline {
        let entry = context.volume.ok_or(BadRequest::Missing("volume attribute \"volume\""))?;
        (VolumeRef { entry, sub_path: context.sub_path }, None)
    } else {
        let volume = persistent(id, &context)?;
        if message.staging_target_path.is_empty() {
            return Err(BadRequest::NotStaged);
        }
        let staging = kubelet_path("staging_target_path", &message.staging_target_path, kubelet_dir)?;
        (volume, Some(staging))
    };
    if let (Some(pod), Some(path)) = (&context.pod, target_path::pod_uid(&target))
        && pod.uid != path
    {
        return Err(BadRequest::PodUid { context: SHOWN.apply(&pod.uid).into_owned(), path: path.to_owned() });
    }
    Ok(Publish {
        id: id.into(),
        volume,
        target,
        staging,
        asked: Asked {
            propagation: context.propagation.or(capability.propagation),
            read_only: message.readonly || capability.read_only || context.read_only,
            pod_read_only: message.readonly,
            attrs: capability.attrs,
        },
        single_writer: capability.single_writer,
        user: context.pod.map_or(User::Unknown, User::Pod),
        inline,
    })
}

/// Reads the id and path of an unpublish, unstage, stats or health request.
///
/// # Errors
/// [`BadRequest`].
pub fn volume_at(id: &str, field: &'static str, path: &str, kubelet_dir: &AbsPath) -> Result<VolumeAt, BadRequest> {
    let id = volume_id(id)?.to_owned();
    Ok(VolumeAt { id, path: kubelet_path(field, path, kubelet_dir)? })
}

/// The same for calls that only examine a volume. If no volume of ours can be at the path, the result is `None`: "not
/// found" rather than "bad", as CSI requires of NodeGetVolumeStats.
///
/// # Errors
/// [`BadRequest`] if a field is missing or the id is invalid.
pub fn volume_to_look_at(
    id: &str,
    field: &'static str,
    path: &str,
    kubelet_dir: &AbsPath,
) -> Result<Option<VolumeAt>, BadRequest> {
    volume_id(id)?;
    required(field, path)?;
    Ok(volume_at(id, field, path, kubelet_dir).ok())
}
