//! One mount and one unmount at the source, for many pods: volumes that the plugin has published, and the same made by
//! the system calls alone, each with as many containers.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use wire::csi::node_client::NodeClient;

use crate::Outcome;
use crate::direct::{Direct, Order};
use crate::node::Node;

/// How many rounds there are of either kind, in turns, and how often the event is made in each.
const ROUNDS: usize = 2;
const EVENTS: usize = 10;
/// The same for few pods, where it is only to be seen that it works.
const QUICK: usize = 1;

/// The mount namespace of a container with one volume, which lives as long as this is held.
struct Container(#[expect(dead_code, reason = "held, not used")] File);

impl Container {
    /// As a runtime makes it: a new namespace, a root of its own, the volume bound into it, all else let go.
    fn start(node: &Node, target: PathBuf, mode: MsFlags) -> Outcome<Self> {
        let root = node.root.join("elsewhere");
        let thread = std::thread::spawn(move || -> Outcome<Self> {
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
            mount(Some("container"), &root, Some("tmpfs"), MsFlags::empty(), none)?;
            let (volume, old) = (root.join("volume"), root.join("old"));
            fs::create_dir(&volume)?;
            fs::create_dir(&old)?;
            mount(Some(&target), &volume, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
            if mode == MsFlags::MS_SLAVE {
                mount(none, &volume, none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
            }
            let held = File::open("/proc/thread-self/ns/mnt")?;
            nix::unistd::pivot_root(&root, &old)?;
            umount2("/old", MntFlags::MNT_DETACH)?;
            Ok(Self(held))
        });
        thread.join().map_err(|_| "a container's thread panicked")?
    }
}

#[derive(Default)]
struct Samples {
    mount: Vec<f64>,
    unmount: Vec<f64>,
    reaction: Vec<f64>,
    mount_cpu: Vec<f64>,
    unmount_cpu: Vec<f64>,
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().map_or(0.0, |value| (value * 10.0).round() / 10.0)
}

impl Samples {
    fn json(mut self) -> Value {
        json!({
            "mountUs": median(&mut self.mount), "unmountUs": median(&mut self.unmount),
            "pluginBusyUs": median(&mut self.reaction), "pluginMountCpuUs": median(&mut self.mount_cpu),
            "pluginUnmountCpuUs": median(&mut self.unmount_cpu),
        })
    }
}

/// Makes the event some times. `quiet` waits until the plugin, if there is one, has done what it does about it: how long
/// it was busy, and how long it ran.
fn events(
    (at, times): (&Path, usize),
    expected: (&Path, usize),
    samples: &mut Samples,
    mut quiet: impl FnMut(Instant) -> Outcome<(f64, f64)>,
) -> Outcome<()> {
    quiet(Instant::now())?;
    for n in 0..times {
        let begin = Instant::now();
        mount(Some("event"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        samples.mount.push(begin.elapsed().as_secs_f64() * 1e6);
        let (busy, ran) = quiet(begin)?;
        samples.reaction.push(busy);
        samples.mount_cpu.push(ran);
        if n == 0 {
            let there = fs::read_to_string("/proc/self/mountinfo")?;
            let wanted = format!("/{} ", at.file_name().unwrap_or_default().display());
            let beneath = expected.0.display().to_string();
            let found = there.lines().filter(|line| line.contains(&wanted) && line.contains(&beneath)).count();
            if found != expected.1 {
                return Err(format!("the event reached {found} targets, not {}", expected.1).into());
            }
        }
        let begin = Instant::now();
        umount2(at, MntFlags::MNT_DETACH)?;
        samples.unmount.push(begin.elapsed().as_secs_f64() * 1e6);
        let (_, ran) = quiet(begin)?;
        samples.unmount_cpu.push(ran);
    }
    Ok(())
}

struct Scene<'a> {
    node: &'a Node,
    pods: usize,
    events: usize,
    propagation: &'static str,
    mode: MsFlags,
}

impl Scene<'_> {
    fn containers(&self) -> Outcome<Vec<Container>> {
        (0..self.pods).map(|pod| Container::start(self.node, self.node.target(pod), self.mode)).collect()
    }

    fn event_at(&self) -> PathBuf {
        self.node.source().join("event")
    }

    /// With the plugin, the one that it is about.
    fn published(&self, runtime: &Runtime, samples: &mut Samples) -> Outcome<()> {
        let mut plugin = self.node.plugin()?;
        let mut client = NodeClient::new(runtime.block_on(self.node.connect(&mut plugin))?);
        for pod in 0..self.pods {
            self.node.prepare(pod)?;
            let request = self.node.publish(pod, &[("propagation", self.propagation)]);
            runtime.block_on(client.node_publish_volume(request))?;
        }
        let containers = self.containers()?;
        let mut ran = plugin.ran()?;
        events((&self.event_at(), self.events), (&self.node.kubelet(), self.pods), samples, |since| {
            let quiet = plugin.until_quiet(since, ran)?;
            ran = plugin.ran()?;
            Ok(quiet)
        })?;
        drop(containers);
        for pod in 0..self.pods {
            runtime.block_on(client.node_unpublish_volume(self.node.unpublish(pod)))?;
        }
        plugin.kill()
    }

    /// Without: the same mounts, and a namespace for the plugin's container, which receives them as well.
    fn direct(&self, samples: &mut Samples) -> Outcome<()> {
        let mut receiver = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "--", "sleep", "1000"])
            .spawn()?;
        let direct = Direct::start(&self.node.kubelet());
        for pod in 0..self.pods {
            self.node.prepare(pod)?;
            let (source, target) = (self.node.source(), self.node.target(pod));
            direct.run(Order::Publish { source, target, slave: self.mode == MsFlags::MS_SLAVE })?;
        }
        let containers = self.containers()?;
        events((&self.event_at(), self.events), (&self.node.kubelet(), self.pods), samples, |_| Ok((0.0, 0.0)))?;
        drop(containers);
        for pod in 0..self.pods {
            direct.run(Order::Unpublish { target: self.node.target(pod) })?;
        }
        receiver.kill()?;
        receiver.wait()?;
        Ok(())
    }
}

/// The event for `pods` pods of each propagation.
pub(crate) fn run(pods: usize) -> Outcome<Value> {
    let node = Node::build()?;
    fs::create_dir(node.source().join("event"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let events = if pods < 100 { QUICK } else { EVENTS };
    let mut all = Vec::new();
    for (propagation, mode) in [("HostToContainer", MsFlags::MS_SLAVE), ("Bidirectional", MsFlags::MS_SHARED)] {
        let scene = Scene { node: &node, pods, events, propagation, mode };
        let (mut published, mut direct) = (Samples::default(), Samples::default());
        for _ in 0..ROUNDS {
            scene.direct(&mut direct)?;
            scene.published(&runtime, &mut published)?;
        }
        eprintln!("{pods} pods, {propagation}: done");
        all.push(json!({"propagation": propagation, "published": published.json(), "direct": direct.json()}));
    }
    Ok(json!({"pods": pods, "events": events * ROUNDS, "of": all}))
}
