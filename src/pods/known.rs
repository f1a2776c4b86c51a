//! The pods of a node, and which of them a volume is for: found by uid, namespace and name together. Pure.
//!
//! An ordinary pod's uid is given by the API server, and no other object ever has it. A static pod has one that the kubelet
//! makes; the API server only has its mirror, an object of the same namespace and name that tells the uid in an annotation
//! (kubelet, pkg/kubelet/pod/mirror_client.go). But whoever may create pods in some namespace may write that annotation there
//! (pkg/apis/core/validation/validation.go asks for `spec.nodeName` alone). So it is believed of the pod of that namespace and name
//! only, which who may not create pods in that namespace can't make, and never where an object has the uid as its own.

use std::collections::HashMap;
use std::sync::Arc;

use allowlist::names::PodIdentity;

use super::PodVolumes;

/// The pods that the API server has told of.
#[derive(Debug, Default)]
pub struct KnownPods {
    /// Ordinary ones, by their uid.
    ordinary: HashMap<String, Arc<PodVolumes>>,
    /// The mirrors of static ones, by namespace and name.
    mirrors: HashMap<String, Arc<PodVolumes>>,
}

/// Whether a pod is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This is it.
    Pod(Arc<PodVolumes>),
    /// The uid is that of this one, which has another namespace or name.
    Another(Arc<PodVolumes>),
    /// It hasn't come yet, or is gone.
    Missing,
}

/// A mirror pod that says of itself what is true of another pod, or is said by another one too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The uid that it says to be its static pod's.
    pub uid: String,
    /// The mirror pod.
    pub mirror: Arc<PodVolumes>,
    /// Whose own uid that is, or the other mirror.
    pub other: Arc<PodVolumes>,
}

impl KnownPods {
    /// Takes in a pod, in the place of what was known of it before. Returns the claims to a uid of another that were not there
    /// before: its own, or, of an ordinary pod, those of mirrors to its uid.
    pub fn insert(&mut self, pod: &Arc<PodVolumes>) -> Vec<Claim> {
        let claim = |uid: &str, mirror: &Arc<PodVolumes>, other: &Arc<PodVolumes>| Claim {
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
            other.map(|other| claim(uid, pod, other)).into_iter().collect()
        } else {
            if self.ordinary.insert(pod.uid.clone(), Arc::clone(pod)).is_some() {
                return Vec::new();
            }
            let mirrors = self.mirrors.values().filter(|m| m.mirror_of.as_ref() == Some(&pod.uid));
            mirrors.map(|mirror| claim(&pod.uid, mirror, pod)).collect()
        }
    }

    /// Forgets a pod, and no other: not one of the same name that was made since, nor one whose uid it claimed.
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

    /// The pod that the kubelet calls for.
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

    /// The uid of a pod with this namespace and name, as the kubelet has it.
    #[must_use]
    pub fn uid_of(&self, namespace: &str, name: &str) -> Option<&str> {
        let pods = self.ordinary.values().chain(self.mirrors.values());
        let mut named = pods.filter(|pod| pod.namespace == namespace && pod.name == name);
        named.next().map(|pod| pod.mirror_of.as_deref().unwrap_or(&pod.uid))
    }

    /// How many there are.
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
            let claims: Vec<Claim> = order.iter().flat_map(|pod| pods.insert(pod)).collect();
            let expected = Claim { uid: "v".to_owned(), mirror: Arc::clone(&thief), other: Arc::clone(&victim) };
            assert_eq!(claims, [expected]);
            assert_eq!(pods.find(&who("ml", "victim", "v")), Found::Pod(Arc::clone(&victim)));
            assert_eq!(pods.find(&who("evil", "thief", "v")), Found::Another(Arc::clone(&victim)));
            // Its status changes, and is told; the claim has been told.
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
        assert_eq!(claims, [Claim { uid: "s".to_owned(), mirror: Arc::clone(&false_one), other: Arc::clone(&real) }]);
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
        // The end of the old one comes late.
        pods.remove(&old);
        assert_eq!(pods.find(&who("ml", "db-0", "u2")), Found::Pod(new));
        let (old, new) = (pod("x", "s-n1", "m1", Some("h1")), pod("x", "s-n1", "m2", Some("h2")));
        let mut pods = known(&[&old, &new]);
        pods.remove(&old);
        assert_eq!(pods.find(&who("x", "s-n1", "h2")), Found::Pod(new));
        assert_eq!(pods.find(&who("x", "s-n1", "h1")), Found::Missing);
    }
}
