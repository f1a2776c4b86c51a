//! The known pods of a node. Finds the pod of a volume by uid, namespace and name together. Pure.
//!
//! An ordinary pod's uid comes from the API server, and no other object ever has it. A static pod's uid comes from the
//! kubelet. The API server has only its mirror pod: an object with the same namespace and name, and the static pod's
//! uid in an annotation (kubelet, pkg/kubelet/pod/mirror_client.go).
//!
//! But whoever may create pods in a namespace may write that annotation there (pkg/apis/core/validation/validation.go
//! only requires `spec.nodeName`). So the annotation counts only for the pod with that namespace and name: others can't
//! create pods in that namespace. And it never counts for a uid that an object has as its own.

use std::collections::HashMap;
use std::sync::Arc;

use allowlist::names::PodIdentity;

use super::PodVolumes;

/// The pods that the API server has sent.
#[derive(Debug, Default)]
pub struct KnownPods {
    /// Ordinary pods, by uid.
    ordinary: HashMap<String, Arc<PodVolumes>>,
    /// Mirror pods, by namespace and name.
    mirrors: HashMap<String, Arc<PodVolumes>>,
}

/// The result of looking for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The pod.
    Pod(Arc<PodVolumes>),
    /// Another pod has this uid: one with another namespace or name.
    Another(Arc<PodVolumes>),
    /// No pod. It hasn't arrived yet, or is gone.
    Missing,
}

/// A mirror pod's annotation has a uid that belongs to another pod or is in another mirror pod's annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UidConflict {
    /// The uid in the annotation.
    pub uid: String,
    /// The mirror pod.
    pub mirror: Arc<PodVolumes>,
    /// The pod with this uid, or the other mirror pod.
    pub other: Arc<PodVolumes>,
}

impl KnownPods {
    /// Adds a pod, or replaces what was known of it. Returns new conflicts: those of this mirror pod's annotation, or
    /// those of mirror pods with this ordinary pod's uid.
    pub fn insert(&mut self, pod: &Arc<PodVolumes>) -> Vec<UidConflict> {
        let conflict = |uid: &str, mirror: &Arc<PodVolumes>, other: &Arc<PodVolumes>| UidConflict {
            uid: uid.to_owned(),
            mirror: Arc::clone(mirror),
            other: Arc::clone(other),
        };
        if let Some(uid) = &pod.mirror_of {
            let before = self.mirrors.insert(pod.to_string(), Arc::clone(pod));
            if before.is_some_and(|before| before.mirror_of == pod.mirror_of) {
                return Vec::new();
            }
            let others = || self.mirrors.values().find(|m| m.mirror_of == pod.mirror_of && !Arc::ptr_eq(m, pod));
            let other = self.ordinary.get(uid).or_else(others);
            other.map(|other| conflict(uid, pod, other)).into_iter().collect()
        } else {
            if self.ordinary.insert(pod.uid.clone(), Arc::clone(pod)).is_some() {
                return Vec::new();
            }
            let mirrors = self.mirrors.values().filter(|m| m.mirror_of.as_ref() == Some(&pod.uid));
            mirrors.map(|mirror| conflict(&pod.uid, mirror, pod)).collect()
        }
    }

    /// Removes this pod only: not a newer one with the same name, nor one whose uid its annotation has.
    pub fn remove(&mut self, pod: &PodVolumes) {
        if pod.mirror_of.is_none() {
            self.ordinary.remove(&pod.uid);
            return;
        }
        let name = pod.to_string();
        if self.mirrors.get(&name).is_some_and(|known| known.uid == pod.uid) {
            self.mirrors.remove(&name);
        }
    }

    /// The pod that the kubelet names.
    #[must_use]
    pub fn find(&self, pod: &PodIdentity) -> Found {
        let same = |known: &PodVolumes| (&known.namespace, &known.name) == (&pod.namespace, &pod.name);
        match self.ordinary.get(&pod.uid) {
            Some(known) if same(known) => Found::Pod(Arc::clone(known)),
            Some(other) => Found::Another(Arc::clone(other)),
            None => match self.mirrors.get(&pod.to_string()) {
                Some(mirror) if mirror.mirror_of.as_ref() == Some(&pod.uid) => Found::Pod(Arc::clone(mirror)),
                _ => Found::Missing,
            },
        }
    }

    /// The uid by which the kubelet knows the pod with this namespace and name.
    #[must_use]
    pub fn uid_of(&self, namespace: &str, name: &str) -> Option<&str> {
        let pods = self.ordinary.values().chain(self.mirrors.values());
        let mut named = pods.filter(|pod| pod.namespace == namespace && pod.name == name);
        named.next().map(|pod| pod.mirror_of.as_deref().unwrap_or(&pod.uid))
    }

    /// How many pods are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ordinary.len() + self.mirrors.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(namespace: &str, name: &str, uid: &str, mirror_of: Option<&str>) -> Arc<PodVolumes> {
        let annotations = mirror_of.map(|uid| json!({"kubernetes.io/config.mirror": uid}));
        let object = json!({
            "metadata": {"namespace": namespace, "name": name, "uid": uid, "annotations": annotations},
            "spec": {"containers": []},
        });
        Arc::new(PodVolumes::of(&serde_json::from_value(object).unwrap()).unwrap())
    }

    fn who(namespace: &str, name: &str, uid: &str) -> PodIdentity {
        let [namespace, name, uid] = [namespace, name, uid].map(str::to_owned);
        PodIdentity { namespace, name, uid, service_account: "default".to_owned() }
    }

    fn known(pods: &[&Arc<PodVolumes>]) -> KnownPods {
        let mut known = KnownPods::default();
        pods.iter().for_each(|pod| drop(known.insert(pod)));
        known
    }

    #[test]
    fn a_mirror_does_not_take_the_place_of_the_pod_whose_uid_it_claims() {
        let victim = pod("ml", "victim", "v", None);
        let thief = pod("evil", "thief", "t", Some("v"));
        for order in [[&victim, &thief], [&thief, &victim]] {
            let mut pods = KnownPods::default();
            let claims: Vec<UidConflict> = order.iter().flat_map(|pod| pods.insert(pod)).collect();
            let expected = UidConflict { uid: "v".to_owned(), mirror: Arc::clone(&thief), other: Arc::clone(&victim) };
            assert_eq!(claims, [expected]);
            assert_eq!(pods.find(&who("ml", "victim", "v")), Found::Pod(Arc::clone(&victim)));
            assert_eq!(pods.find(&who("evil", "thief", "v")), Found::Another(Arc::clone(&victim)));
            // Its status changes, but the conflict was reported already.
            assert_eq!(pods.insert(&thief), []);
            assert_eq!(pods.insert(&victim), []);
            pods.remove(&thief);
            assert_eq!(pods.find(&who("ml", "victim", "v")), Found::Pod(Arc::clone(&victim)));
            assert_eq!(pods.count(), 1);
        }
    }

    #[test]
    fn of_two_mirrors_with_one_uid_each_is_found_by_its_own_name_only() {
        let (real, false_one) =
            (pod("kube-system", "agent-n1", "a", Some("s")), pod("evil", "agent-n1", "b", Some("s")));
        let mut pods = known(&[&real]);
        let claims = pods.insert(&false_one);
        assert_eq!(
            claims,
            [UidConflict { uid: "s".to_owned(), mirror: Arc::clone(&false_one), other: Arc::clone(&real) }]
        );
        assert_eq!(pods.find(&who("kube-system", "agent-n1", "s")), Found::Pod(real));
        pods.remove(&false_one);
        assert!(matches!(pods.find(&who("kube-system", "agent-n1", "s")), Found::Pod(_)));
    }

    #[test]
    fn a_mirror_is_known_by_the_uid_of_its_static_pod_and_not_by_its_own() {
        let pods = known(&[&pod("kube-system", "agent-n1", "a", Some("s"))]);
        assert!(matches!(pods.find(&who("kube-system", "agent-n1", "s")), Found::Pod(_)));
        assert_eq!(pods.find(&who("kube-system", "agent-n1", "a")), Found::Missing);
        assert_eq!(pods.find(&who("kube-system", "other", "s")), Found::Missing);
        assert_eq!(pods.uid_of("kube-system", "agent-n1"), Some("s"));
    }

    #[test]
    fn a_pod_that_is_made_anew_with_the_same_name_is_another() {
        let (old, new) = (pod("ml", "db-0", "u1", None), pod("ml", "db-0", "u2", None));
        let mut pods = known(&[&new]);
        assert_eq!(pods.find(&who("ml", "db-0", "u1")), Found::Missing);
        // The old pod's end arrives late.
        pods.remove(&old);
        assert_eq!(pods.find(&who("ml", "db-0", "u2")), Found::Pod(new));
        let (old, new) = (pod("x", "s-n1", "m1", Some("h1")), pod("x", "s-n1", "m2", Some("h2")));
        let mut pods = known(&[&old, &new]);
        pods.remove(&old);
        assert_eq!(pods.find(&who("x", "s-n1", "h2")), Found::Pod(new));
        assert_eq!(pods.find(&who("x", "s-n1", "h1")), Found::Missing);
    }
}
