//! Many volumes on one plugin: what each further one costs, what holding them costs, a restart, and taking them away.

use std::time::{Duration, Instant};

use csi::node_client::NodeClient;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tonic::transport::Channel;
use wire::csi;

use crate::Outcome;
use crate::direct::{Direct, Order};
use crate::node::{Node, Plugin, text};

/// Directories of the source that volumes are taken from.
const SOURCES: usize = 20;
/// How often the direct calls are made at each thousand.
const DIRECT: usize = 50;
/// Calls that only look, at each step.
const LOOKS: usize = 200;

/// Percentiles of samples in µs.
fn summary(mut samples: Vec<f64>) -> Value {
    samples.sort_by(f64::total_cmp);
    let at = |percent: usize| samples.get(samples.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0.0);
    json!({"p50": round(at(50)), "p99": round(at(99)), "max": round(at(100))})
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

struct Part {
    node: Node,
    direct: Direct,
    client: NodeClient<Channel>,
    /// Pods 1 to this have a volume.
    held: usize,
}

impl Part {
    /// The target of the direct calls is that of pod 0.
    fn direct(&self) -> Outcome<(Value, Value)> {
        let (mut publish, mut unpublish) = (Vec::new(), Vec::new());
        for _ in 0..DIRECT {
            let target = self.node.target(0);
            let source = self.node.source().join("s0");
            publish.push(self.direct.run(Order::Publish { source, target: target.clone(), slave: true })?);
            unpublish.push(self.direct.run(Order::Unpublish { target })?);
        }
        Ok((summary(publish), summary(unpublish)))
    }

    async fn publish(&mut self, count: usize) -> Outcome<Value> {
        let mut samples = Vec::new();
        for _ in 0..count {
            let pod = self.held + 1;
            self.node.prepare(pod)?;
            let sub_path = format!("s{}", pod % SOURCES);
            let attributes = [("subPath", sub_path.as_str()), ("propagation", "HostToContainer")];
            let request = self.node.publish(pod, &attributes);
            let begin = Instant::now();
            self.client.node_publish_volume(request).await?;
            samples.push(micros(begin));
            self.held = pod;
        }
        Ok(summary(samples))
    }

    async fn unpublish(&mut self, count: usize) -> Outcome<Value> {
        let mut samples = Vec::new();
        for _ in 0..count {
            let request = self.node.unpublish(self.held);
            let begin = Instant::now();
            self.client.node_unpublish_volume(request).await?;
            samples.push(micros(begin));
            self.held -= 1;
        }
        Ok(summary(samples))
    }

    /// NodeGetVolumeStats and NodeGetVolumeHealth of volumes here and there among those held.
    async fn looks(&mut self) -> Outcome<(Value, Value)> {
        let (mut stats, mut health) = (Vec::new(), Vec::new());
        for n in 0..LOOKS.min(self.held) {
            let pod = 1 + n * 7919 % self.held;
            let (volume_id, path) = (format!("csi-{pod}"), text(&self.node.target(pod)));
            let asked = csi::NodeGetVolumeStatsRequest {
                volume_id: volume_id.clone(),
                volume_path: path.clone(),
                ..Default::default()
            };
            let begin = Instant::now();
            self.client.node_get_volume_stats(asked).await?;
            stats.push(micros(begin));
            let asked = csi::NodeGetVolumeHealthRequest { volume_id, volume_publish_path: path, ..Default::default() };
            let begin = Instant::now();
            self.client.node_get_volume_health(asked).await?;
            health.push(micros(begin));
        }
        Ok((summary(stats), summary(health)))
    }

    /// What it costs to hold what is held.
    async fn holding(&mut self, plugin: &Plugin, idle: Duration) -> Outcome<Value> {
        let after_publishing = plugin.memory("VmRSS")?;
        // Newcomers are taken in within 15 s.
        tokio::time::sleep(idle).await;
        plugin.until_quiet(Instant::now(), plugin.ran()?)?;
        let (start, before) = (Instant::now(), plugin.ran()?);
        tokio::time::sleep(idle).await;
        let idle_cpu = (plugin.ran()? - before) / start.elapsed().as_secs_f64() / 1e4;
        // A mount that has nothing to do with any volume.
        let elsewhere = self.node.root.join("elsewhere");
        let (begin, before) = (Instant::now(), plugin.ran()?);
        mount(Some("scale"), &elsewhere, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        let (_, elsewhere_cpu) = plugin.until_quiet(begin, before)?;
        umount2(&elsewhere, MntFlags::MNT_DETACH)?;
        // One volume more, and one less. Taking it in may come much later, so it is waited for.
        let (begin, before) = (Instant::now(), plugin.ran()?);
        self.publish(1).await?;
        tokio::time::sleep(idle).await;
        let (one_more, one_more_cpu) = plugin.until_quiet(begin, before)?;
        self.unpublish(1).await?;
        let before = plugin.ran()?;
        let (scrape, counted) = self.node.scrape()?;
        let scrape_cpu = plugin.ran()? - before;
        let (scrape_again, _) = self.node.scrape()?;
        let (stats, health) = self.looks().await?;
        let begin = Instant::now();
        let mounts = std::fs::read("/proc/self/mountinfo")?.split(|&byte| byte == b'\n').count();
        let table = micros(begin);
        Ok(json!({
            "held": self.held, "mounts": mounts, "counted": counted,
            "residentKiB": plugin.memory("VmRSS")?, "residentAfterPublishingKiB": after_publishing,
            "residentMostKiB": plugin.memory("VmHWM")?,
            "idleCpuPercent": (idle_cpu * 1000.0).round() / 1000.0,
            "mountElsewhereCpuUs": round(elsewhere_cpu),
            "oneMoreBusyUs": round(one_more), "oneMoreCpuUs": round(one_more_cpu),
            "scrapeUs": round(scrape), "scrapeCpuUs": round(scrape_cpu), "scrapeAgainUs": round(scrape_again),
            "stats": stats, "health": health, "readMountinfoUs": round(table),
        }))
    }
}

/// Publishes `volumes`, looks at what holding them costs on the way, restarts the plugin, and unpublishes them.
pub(crate) fn run(volumes: usize) -> Outcome<Value> {
    let node = Node::build()?;
    for n in 0..SOURCES {
        std::fs::create_dir(node.source().join(format!("s{n}")))?;
    }
    node.prepare(0)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut plugin = node.plugin()?;
    let client = NodeClient::new(runtime.block_on(node.connect(&mut plugin))?);
    let direct = Direct::start(&node.kubelet());
    let mut part = Part { node, direct, client, held: 0 };
    runtime.block_on(async {
        // Threads, workshop, caches.
        part.publish(1).await?;
        part.unpublish(1).await?;
        let idle = Duration::from_secs(if volumes < 1000 { 1 } else { 15 });
        let step = (volumes / 50).max(1);
        let (mut growing, mut holding, mut shrinking) = (Vec::new(), Vec::new(), Vec::new());
        holding.push(part.holding(&plugin, idle).await?);
        let begin = Instant::now();
        let mut looking = Duration::ZERO;
        while part.held < volumes {
            let (held, count) = (part.held, step.min(volumes - part.held));
            let (direct, _) = part.direct()?;
            let publish = part.publish(count).await?;
            growing.push(json!({"held": held, "publish": publish, "direct": direct}));
            if part.held.is_multiple_of(step * 10) || part.held == volumes {
                let look = Instant::now();
                eprintln!("{} volumes are published", part.held);
                holding.push(part.holding(&plugin, idle).await?);
                looking += look.elapsed();
            }
        }
        let published = (begin.elapsed().saturating_sub(looking)).as_secs_f64();
        plugin.kill()?;
        // What a new mount namespace costs, which the plugin's container gets with all that is mounted.
        let begin = Instant::now();
        let status =
            std::process::Command::new("unshare").args(["--mount", "--propagation", "slave", "true"]).status()?;
        let namespace = micros(begin);
        if !status.success() {
            return Err(format!("unshare failed ({status})").into());
        }
        let begin = Instant::now();
        let mut plugin = part.node.plugin()?;
        part.client = NodeClient::new(part.node.connect(&mut plugin).await?);
        let until_probe = micros(begin);
        let (until_quiet, ran) = plugin.until_quiet(begin, 0.0)?;
        let restart = json!({
            "held": part.held, "namespaceUs": round(namespace), "untilProbeUs": round(until_probe),
            "untilQuietUs": round(until_quiet), "ranUs": round(ran), "residentKiB": plugin.memory("VmRSS")?,
            "residentMostKiB": plugin.memory("VmHWM")?,
        });
        let begin = Instant::now();
        while part.held > 0 {
            let (held, count) = (part.held, step.min(part.held));
            let (_, direct) = part.direct()?;
            let unpublish = part.unpublish(count).await?;
            shrinking.push(json!({"held": held, "unpublish": unpublish, "direct": direct}));
        }
        let unpublished = begin.elapsed().as_secs_f64();
        plugin.until_quiet(Instant::now(), plugin.ran()?)?;
        let left = plugin.memory("VmRSS")?;
        plugin.kill()?;
        Ok(json!({
            "volumes": volumes, "step": step, "publishedSeconds": round(published), "unpublishedSeconds": round(unpublished),
            "growing": growing, "holding": holding, "restart": restart, "shrinking": shrinking, "residentAfterKiB": left,
        }))
    })
}
