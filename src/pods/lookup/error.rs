//! Why a look-up fails.

use std::sync::Arc;
use std::time::Duration;

use allowlist::names::{PodIdentity, Target};

/// Why it isn't known what a pod wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The target path isn't a pod volume's path.
    #[error("{path} is not the path of a pod's volume, so no pod can be looked up: the kubelet has no such paths")]
    NotAPodVolume {
        /// The target path.
        path: Target,
    },
    /// The request doesn't name its pod.
    #[error(
        "the request does not say which pod it is for, and without that no pod can be looked up: set podInfoOnMount: true \
         on the CSIDriver object"
    )]
    NoPodInfo,
    /// The pod hasn't arrived by the watch.
    #[error(
        "the API server did not tell of the pod {pod} (uid {}) within {waited:?}: {why}; the call will be retried",
        pod.uid
    )]
    PodUnseen {
        /// The pod.
        pod: Arc<PodIdentity>,
        /// How long the look-up waited.
        waited: Duration,
        /// What the watch has instead, or what is wrong with it.
        why: String,
    },
    /// Another pod has this uid.
    #[error(
        "the request is for the pod {pod} with the uid {}, but that is the uid of the pod {is}: one of the two claims \
         what isn't its own; look at both, and whether podInfoOnMount is true on the CSIDriver object",
        pod.uid
    )]
    OtherPod {
        /// The pod that the request names.
        pod: Arc<PodIdentity>,
        /// The pod that has the uid.
        is: String,
    },
    /// The pod has another service account than the request says.
    #[error(
        "the request says that the pod {pod} runs as the service account {:?}, but the API server says {is:?}: the kubelet does \
         not write so; set podInfoOnMount: true on the CSIDriver object, so that it does",
        pod.service_account
    )]
    OtherAccount {
        /// The pod that the request names.
        pod: Arc<PodIdentity>,
        /// The pod's service account.
        is: String,
    },
    /// The pod doesn't have this volume.
    #[error("the pod {pod} has no volume that could be {volume:?}: the call will be retried")]
    NoVolume {
        /// The pod.
        pod: String,
        /// The volume's name in the target path.
        volume: String,
    },
    /// The PersistentVolume can't be read.
    #[error(
        "the claims of the pod {pod} ask for different propagations, and the PersistentVolume {volume} cannot be \
         read to tell which claim it is: {why}; the call will be retried, or set its volumeAttributes.propagation"
    )]
    PersistentVolume {
        /// The pod.
        pod: String,
        /// The PersistentVolume.
        volume: String,
        /// What is wrong.
        why: String,
    },
}
