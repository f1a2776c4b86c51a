//! What the API server counts, read from its `/metrics`.

use std::collections::BTreeMap;

use kube::Client;

use crate::server::{Cost, Server};

/// All counters at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scrape {
    series: BTreeMap<String, f64>,
    cost: [Cost; 2],
}

impl Scrape {
    pub(crate) async fn take(server: &Server, admin: &Client) -> Self {
        let text = server.get(admin, "/metrics").await.unwrap();
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self { series: series.collect(), cost: server.cost() }
    }

    /// The sum of the series of this name that have all these labels, each as it is written: `verb="LIST"`.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_name =
            |series: &str| series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        let fits = |series: &str| labels.iter().all(|label| series.contains(label));
        // What begins with this name stands together.
        let from = self.series.range(name.to_owned()..).take_while(|(series, _)| series.starts_with(name));
        from.filter(|(series, _)| of_name(series) && fits(series)).map(|(_, value)| value).sum()
    }
}

/// What has happened between two scrapes.
pub(crate) struct Between<'a>(pub(crate) &'a Scrape, pub(crate) &'a Scrape);

impl Between<'_> {
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.1.sum(name, labels) - self.0.sum(name, labels)
    }

    /// Requests that have ended, by verb and resource.
    pub(crate) fn requests(&self, verb: &str, resource: &str) -> f64 {
        let (verb, resource) = (format!("verb=\"{verb}\""), format!("resource=\"{resource}\""));
        self.sum("apiserver_request_total", &[&verb, &resource])
    }

    /// Those of them that were turned away for too much load.
    pub(crate) fn turned_away(&self) -> f64 {
        self.sum("apiserver_request_total", &["code=\"429\""])
    }

    /// CPU seconds of the API server.
    pub(crate) fn cpu(&self) -> f64 {
        self.1.cost[0].cpu - self.0.cost[0].cpu
    }

    /// CPU seconds of etcd.
    pub(crate) fn etcd_cpu(&self) -> f64 {
        self.1.cost[1].cpu - self.0.cost[1].cpu
    }

    /// Resident MiB of the API server, at the end.
    pub(crate) fn resident(&self) -> f64 {
        self.1.cost[0].resident
    }

    /// MiB that the API server has allocated.
    pub(crate) fn allocated(&self) -> f64 {
        self.sum("go_memstats_alloc_bytes_total", &[]) / f64::from(1 << 20)
    }

    /// Watch events of pods that were sent, and their bytes.
    pub(crate) fn watched(&self) -> (f64, f64) {
        let pods = ["resource=\"pods\""];
        (self.sum("apiserver_watch_events_sizes_count", &pods), self.sum("apiserver_watch_events_sizes_sum", &pods))
    }

    /// Pods that lists have fetched from there: `etcd` or `watchcache`.
    pub(crate) fn fetched(&self, from: &str) -> f64 {
        let from = format!("storage=\"{from}\"");
        self.sum("apiserver_storage_list_fetched_objects_total", &["resource=\"pods\"", &from])
    }

    /// What the drivers' requests were judged to weigh, in seats of their priority level (API Priority and Fairness).
    pub(crate) fn seats(&self) -> f64 {
        let schema = ["flow_schema=\"service-accounts\""];
        self.sum("apiserver_flowcontrol_work_estimated_seats_sum", &schema)
            / self.sum("apiserver_flowcontrol_work_estimated_seats_count", &schema)
    }

    /// Bytes of the answers to lists of pods.
    pub(crate) fn listed_bytes(&self) -> f64 {
        self.sum("apiserver_response_sizes_sum", &["verb=\"LIST\"", "resource=\"pods\""])
    }
}
