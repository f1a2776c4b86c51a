//! The state of the plugin, part by part: what `/healthz` and `/readyz` answer, and what the log says.
//!
//! Anybody who reaches the port may ask. So the network is told only the part, in a fixed word. The details may name
//! paths of the node, or repeat what others sent. They go into the log, once for each change.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::Service;

/// A part of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The allow-list.
    AllowList,
    /// The kubelet's mount namespace, and threads in it.
    MountNamespace,
    /// Threads that don't hang.
    Workers,
    /// Sources of volumes. They may hang.
    Sources,
    /// The look-up of pods.
    PodLookup,
    /// The registration with the kubelet.
    Registration,
    /// The directory that holds the registration socket.
    RegistrationDirectory,
}

impl Part {
    const ALL: [Self; 7] = [
        Self::AllowList,
        Self::MountNamespace,
        Self::Workers,
        Self::Sources,
        Self::PodLookup,
        Self::Registration,
        Self::RegistrationDirectory,
    ];

    /// The fixed word that the network is told.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::AllowList => "allow-list",
            Self::MountNamespace => "mount-namespace",
            Self::Workers => "workers",
            Self::Sources => "sources",
            Self::PodLookup => "pod-lookup",
            Self::Registration => "registration",
            Self::RegistrationDirectory => "registration-directory",
        }
    }
}

/// The consequence of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Volumes are still served.
    Degraded,
    /// Volumes don't arrive, or can't be served.
    NotReady,
    /// Only a restart helps.
    Failed,
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The affected part.
    pub part: Part,
    /// Its consequence.
    pub effect: Effect,
    /// The details, for the log: they may name paths of the node.
    pub detail: String,
}

/// All current problems, at most one for each part.
#[must_use]
pub async fn look(service: &Service) -> Vec<Finding> {
    use Effect::{Degraded, NotReady};
    let mut found = Vec::new();
    let mut find = |part, effect, detail| found.push(Finding { part, effect, detail });
    match (service.list(), service.store.stats().last_error) {
        (Err(why), _) => find(Part::AllowList, NotReady, why.to_string()),
        (Ok(_), Some(why)) => {
            find(Part::AllowList, Degraded, format!("it was refused, the last good one is in force: {why}"));
        }
        (Ok(_), None) => {}
    }
    if let Err(why) = service.has_threads().await {
        find(Part::MountNamespace, NotReady, why.to_string());
    }
    if let Err(why) = service.has_workers() {
        find(Part::Workers, NotReady, why.to_string());
    }
    let mut hanging: Vec<_> = service.threads.stuck().into_iter().collect();
    if !hanging.is_empty() {
        hanging.sort();
        let hanging: Vec<_> = hanging.into_iter().map(|(source, count)| format!("{count} on {source}")).collect();
        find(Part::Sources, Degraded, format!("mount threads hang: {}", hanging.join(", ")));
    }
    if let Some(lookup) = &service.lookup {
        match (lookup.ready(), lookup.error()) {
            (Err(why), _) => find(Part::PodLookup, NotReady, why),
            (Ok(()), Some(why)) => find(Part::PodLookup, Degraded, format!("watching the node's pods fails: {why}")),
            (Ok(()), None) => {}
        }
    }
    found
}

/// Whether the process should keep running, and a line for each part with a problem. A refused allow-list and the like
/// are no reason to restart: the last good one works.
#[must_use]
pub fn health(findings: &[Finding]) -> (bool, String) {
    let line = |finding: &Finding| {
        let effect = if finding.effect == Effect::Failed { "failed" } else { "degraded" };
        format!("{effect}: {}\n", finding.part.word())
    };
    (findings.iter().all(|finding| finding.effect != Effect::Failed), text(findings.iter().map(line)))
}

/// Whether volumes arrive and can be served, and a line for each part that prevents it.
#[must_use]
pub fn readiness(findings: &[Finding]) -> (bool, String) {
    let mut keeping = findings.iter().filter(|finding| finding.effect >= Effect::NotReady).peekable();
    let ready = keeping.peek().is_none();
    (ready, text(keeping.map(|finding| format!("not ready: {}\n", finding.part.word()))))
}

fn text(lines: impl Iterator<Item = String>) -> String {
    let text: String = lines.collect();
    if text.is_empty() { "ok\n".to_owned() } else { text }
}

/// What was logged last of each part.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashMap<Part, (Effect, String)>>);

/// A change to log.
#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    Unwell(&'a Finding),
    Well(Part),
}

impl Told {
    /// Logs what has changed since the last call.
    pub fn tell(&self, findings: &[Finding]) {
        for change in self.changes(findings) {
            match change {
                Change::Unwell(Finding { part, effect, detail }) => {
                    tracing::warn!(part = part.word(), ?effect, detail, "the plugin is unwell");
                }
                Change::Well(part) => tracing::info!(part = part.word(), "the plugin is well again"),
            }
        }
    }

    fn changes<'a>(&self, findings: &'a [Finding]) -> Vec<Change<'a>> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::new();
        for part in Part::ALL {
            let Some(finding) = findings.iter().find(|finding| finding.part == part) else {
                changes.extend(told.remove(&part).map(|_| Change::Well(part)));
                continue;
            };
            // The numbers in the details may change. The problem is the same.
            let gist = (finding.effect, finding.detail.chars().filter(|c| !c.is_ascii_digit()).collect());
            if told.get(&part) != Some(&gist) {
                told.insert(part, gist);
                changes.push(Change::Unwell(finding));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(part: Part, effect: Effect, detail: &str) -> Finding {
        Finding { part, effect, detail: detail.to_owned() }
    }

    #[test]
    fn the_network_is_told_which_part_and_nothing_of_the_node() {
        let detail = "/srv/secret: no such directory, said 10.0.0.1";
        let all: Vec<_> = Part::ALL.into_iter().map(|part| finding(part, Effect::NotReady, detail)).collect();
        for (_, text) in [health(&all), readiness(&all)] {
            assert_eq!(text.lines().count(), all.len());
            assert!(Part::ALL.iter().all(|part| text.contains(part.word())), "{text}");
            assert!(text.chars().all(|c| c.is_ascii_lowercase() || " :-\n".contains(c)), "{text}");
        }
    }

    #[test]
    fn only_what_a_restart_mends_is_a_reason_to_restart() {
        let some = |effect| vec![finding(Part::Sources, effect, "")];
        assert_eq!((health(&[]), readiness(&[])), ((true, "ok\n".into()), (true, "ok\n".into())));
        let degraded = some(Effect::Degraded);
        assert_eq!(health(&degraded), (true, "degraded: sources\n".into()));
        assert_eq!(readiness(&degraded), (true, "ok\n".into()));
        assert_eq!(health(&some(Effect::NotReady)), (true, "degraded: sources\n".into()));
        assert_eq!(readiness(&some(Effect::NotReady)), (false, "not ready: sources\n".into()));
        assert_eq!(health(&some(Effect::Failed)), (false, "failed: sources\n".into()));
        assert!(!readiness(&some(Effect::Failed)).0);
    }

    #[test]
    fn a_change_is_logged_once() {
        let told = Told::default();
        let hangs = |n| vec![finding(Part::Sources, Effect::Degraded, &format!("{n} on /a"))];
        let (first, more) = (hangs(1), hangs(2));
        assert_eq!(told.changes(&first), [Change::Unwell(&first[0])]);
        assert_eq!((told.changes(&first), told.changes(&more)), (vec![], vec![]));
        let worse = vec![finding(Part::Sources, Effect::NotReady, "2 on /a")];
        assert_eq!(told.changes(&worse), [Change::Unwell(&worse[0])]);
        assert_eq!((told.changes(&[]), told.changes(&[])), (vec![Change::Well(Part::Sources)], vec![]));
    }
}
