//! Calls any CSI driver over its socket, as one caller or as many, and times what it does.
//!
//! Two kinds of connection matter: one that is kept, on which a call costs what the driver makes of it, and the kubelet's
//! way, which opens a connection for each call. The main figures are of kept connections, one for each caller.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use csi::controller_client::ControllerClient;
use csi::identity_client::IdentityClient;
use csi::node_client::NodeClient;
use csi::node_service_capability::{Type, rpc};
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use wire::csi;

use crate::kept::{Call, Kept};
use crate::samples::{Burst, Round, Throughput};
use crate::volume::Volume;
use crate::{Outcome, PATIENCE, micros, process};

/// A driver's client, with kept connections.
pub(crate) struct Client {
    socket: PathBuf,
    runtime: Runtime,
    /// One caller's.
    channel: Channel,
    /// Many callers'.
    kept: Vec<Kept>,
}

/// What each caller does with each of its volumes.
#[derive(Debug, Clone, Copy)]
enum Task {
    Each(What),
    /// Both in turn, so many times.
    Pairs(usize),
}

fn endpoint(socket: &Path) -> Outcome<Endpoint> {
    Ok(Endpoint::from_shared(format!("unix://{}", socket.display()))?.timeout(PATIENCE))
}

/// A connection, if a Probe on it is answered well.
pub(crate) async fn ready(socket: &Path) -> Outcome<Option<Channel>> {
    let Ok(channel) = endpoint(socket)?.connect().await else { return Ok(None) };
    let answer = IdentityClient::new(channel.clone()).probe(csi::ProbeRequest {}).await;
    let good = answer.is_ok_and(|answer| answer.into_inner().ready.unwrap_or(true));
    Ok(good.then_some(channel))
}

/// Names the call that failed.
fn failed(call: &str, volume: &Volume) -> impl Fn(tonic::Status) -> String {
    let target = volume.target.clone();
    move |status| format!("{call} at {target}: {:?}: {}", status.code(), status.message())
}

async fn publish(client: &mut NodeClient<Channel>, volume: &Volume) -> Outcome<f64> {
    let request = volume.publish();
    let begin = Instant::now();
    client.node_publish_volume(request).await.map_err(failed("NodePublishVolume", volume))?;
    Ok(micros(begin))
}

async fn unpublish(client: &mut NodeClient<Channel>, volume: &Volume) -> Outcome<f64> {
    let request = volume.unpublish();
    let begin = Instant::now();
    client.node_unpublish_volume(request).await.map_err(failed("NodeUnpublishVolume", volume))?;
    Ok(micros(begin))
}

async fn stage(client: &mut NodeClient<Channel>, volume: &Volume) -> Outcome<f64> {
    let request = volume.stage();
    let begin = Instant::now();
    client.node_stage_volume(request).await.map_err(failed("NodeStageVolume", volume))?;
    Ok(micros(begin))
}

async fn unstage(client: &mut NodeClient<Channel>, volume: &Volume) -> Outcome<f64> {
    let request = volume.unstage();
    let begin = Instant::now();
    client.node_unstage_volume(request).await.map_err(failed("NodeUnstageVolume", volume))?;
    Ok(micros(begin))
}

/// The two calls that are made by many.
#[derive(Debug, Clone, Copy)]
enum What {
    Publish,
    Unpublish,
}

/// Whoever calls for volumes one after the other.
enum Caller<'a> {
    /// By the client that everybody has.
    Alone(NodeClient<Channel>, &'a [Volume]),
    /// One of many, with each volume's calls.
    Kept(&'a mut Kept, &'a [Volume], Vec<[Call; 2]>),
}

impl<'a> Caller<'a> {
    fn kept(kept: &'a mut Kept, volumes: &'a [Volume]) -> Outcome<Self> {
        let calls = |volume: &Volume| {
            Ok([
                Call::new("csi.v1.Node/NodePublishVolume", &volume.publish())?,
                Call::new("csi.v1.Node/NodeUnpublishVolume", &volume.unpublish())?,
            ])
        };
        Ok(Self::Kept(kept, volumes, volumes.iter().map(calls).collect::<Outcome<_>>()?))
    }

    fn volumes(&self) -> usize {
        let (Self::Alone(_, volumes) | Self::Kept(_, volumes, _)) = self;
        volumes.len()
    }

    /// A call for a volume; what it took in µs.
    async fn call(&mut self, volume: usize, what: What) -> Outcome<f64> {
        match (self, what) {
            (Self::Alone(client, volumes), What::Publish) => publish(client, &volumes[volume]).await,
            (Self::Alone(client, volumes), What::Unpublish) => unpublish(client, &volumes[volume]).await,
            (Self::Kept(kept, volumes, calls), what) => {
                let [publish, unpublish] = &calls[volume];
                let call = match what {
                    What::Publish => publish,
                    What::Unpublish => unpublish,
                };
                let begin = Instant::now();
                let called = kept.call(call).await;
                called.map_err(|e| format!("{what:?} at {}: {e}", volumes[volume].target))?;
                Ok(micros(begin))
            }
        }
    }

    /// From when to when its calls went, and what each took in µs.
    async fn work(mut self, task: Task) -> Outcome<(Instant, Vec<f64>, Instant)> {
        let mut times = Vec::new();
        let begin = Instant::now();
        for volume in 0..self.volumes() {
            match task {
                Task::Each(what) => times.push(self.call(volume, what).await?),
                Task::Pairs(many) => {
                    for _ in 0..many {
                        let publish = self.call(volume, What::Publish).await?;
                        times.push(publish + self.call(volume, What::Unpublish).await?);
                    }
                }
            }
        }
        Ok((begin, times, Instant::now()))
    }
}

/// All callers, which begin together: what each call took in µs, and all together in seconds.
async fn at_once(callers: Vec<Caller<'_>>, task: Task) -> Outcome<(Vec<f64>, f64)> {
    let mut running: FuturesUnordered<_> = callers.into_iter().map(|caller| caller.work(task)).collect();
    let (mut all, mut span): (_, Option<(Instant, Instant)>) = (Vec::new(), None);
    while let Some(ended) = running.next().await {
        let (begin, times, end) = ended?;
        all.extend(times);
        span = Some(span.map_or((begin, end), |(first, last)| (first.min(begin), last.max(end))));
    }
    let (first, last) = span.ok_or("no volumes to call for")?;
    Ok((all, (last - first).as_secs_f64()))
}

impl Client {
    /// Connects, as soon as the driver is ready. `alive` says why it never will be, if so.
    pub(crate) fn connect(socket: &Path, callers: usize, mut alive: impl FnMut() -> Outcome<()>) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let deadline = Instant::now() + PATIENCE;
        let channel = loop {
            if let Some(channel) = runtime.block_on(ready(socket))? {
                break channel;
            }
            alive()?;
            if Instant::now() > deadline {
                return Err(format!("nothing ready answers at {}", socket.display()).into());
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        let kept = (0..callers).map(|_| runtime.block_on(Kept::connect(socket))).collect::<Outcome<_>>()?;
        Ok(Self { socket: socket.to_owned(), runtime, channel, kept })
    }

    /// The driver's name, as it says itself.
    pub(crate) fn name(&self) -> Outcome<String> {
        let mut client = IdentityClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.get_plugin_info(csi::GetPluginInfoRequest {}))?;
        Ok(answer.into_inner().name)
    }

    /// Whether the driver stages volumes.
    pub(crate) fn stages(&self) -> Outcome<bool> {
        let mut client = NodeClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.node_get_capabilities(csi::NodeGetCapabilitiesRequest {}))?;
        Ok(answer.into_inner().capabilities.into_iter().any(|capability| {
            matches!(capability.r#type, Some(Type::Rpc(rpc)) if rpc.r#type() == rpc::Type::StageUnstageVolume)
        }))
    }

    /// Has the driver make a volume: its id and what the caller of NodePublishVolume has to pass on.
    pub(crate) fn create(&self, name: &str) -> Outcome<csi::Volume> {
        let request = csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(csi::CapacityRange { required_bytes: 1 << 20, limit_bytes: 0 }),
            volume_capabilities: Volume::capability().into_iter().collect(),
            ..Default::default()
        };
        let mut client = ControllerClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.create_volume(request)).map_err(|e| format!("CreateVolume: {e}"))?;
        Ok(answer.into_inner().volume.ok_or("CreateVolume answers without a volume")?)
    }

    /// Has the driver delete it again.
    pub(crate) fn delete(&self, volume: &Volume) -> Outcome<()> {
        let request = csi::DeleteVolumeRequest { volume_id: volume.id.clone(), ..Default::default() };
        let mut client = ControllerClient::new(self.channel.clone());
        self.runtime.block_on(client.delete_volume(request)).map_err(failed("DeleteVolume", volume))?;
        Ok(())
    }

    /// Stages one volume.
    pub(crate) fn stage(&self, volume: &Volume) -> Outcome<f64> {
        self.runtime.block_on(stage(&mut NodeClient::new(self.channel.clone()), volume))
    }

    /// Unstages it.
    pub(crate) fn unstage(&self, volume: &Volume) -> Outcome<f64> {
        self.runtime.block_on(unstage(&mut NodeClient::new(self.channel.clone()), volume))
    }

    /// An empty round trip, in µs.
    pub(crate) fn probe(&self) -> Outcome<f64> {
        self.runtime.block_on(async {
            let mut client = IdentityClient::new(self.channel.clone());
            let begin = Instant::now();
            client.probe(csi::ProbeRequest {}).await?;
            Ok(micros(begin))
        })
    }

    /// One caller's publish and unpublish, in µs.
    pub(crate) fn pair(&self, volume: &Volume) -> Outcome<(f64, f64)> {
        self.runtime.block_on(async {
            let mut client = NodeClient::new(self.channel.clone());
            Ok((publish(&mut client, volume).await?, unpublish(&mut client, volume).await?))
        })
    }

    /// As the kubelet does it: each call with a connection of its own, which is part of what is timed.
    pub(crate) fn fresh(&self, volume: &Volume, round: &mut Round) -> Outcome<()> {
        let connect = || async { Outcome::Ok(endpoint(&self.socket)?.connect().await?) };
        self.runtime.block_on(async {
            let begin = Instant::now();
            IdentityClient::new(connect().await?).probe(csi::ProbeRequest {}).await?;
            round.fresh_probe.push(micros(begin));
            let begin = Instant::now();
            publish(&mut NodeClient::new(connect().await?), volume).await?;
            round.fresh_publish.push(micros(begin));
            let begin = Instant::now();
            unpublish(&mut NodeClient::new(connect().await?), volume).await?;
            round.fresh_unpublish.push(micros(begin));
            Ok(())
        })
    }

    /// All volumes are published, and then all unpublished, by so many callers.
    pub(crate) fn burst(&mut self, callers: usize, volumes: &[Volume], pid: u32) -> Outcome<Burst> {
        let begin = process::processor_time(pid)?;
        let (publish, publish_took) = self.run(callers, volumes, Task::Each(What::Publish))?;
        let middle = process::processor_time(pid)?;
        let (unpublish, unpublish_took) = self.run(callers, volumes, Task::Each(What::Unpublish))?;
        let end = process::processor_time(pid)?;
        Ok(Burst {
            publish,
            unpublish,
            publish_took,
            unpublish_took,
            publish_cpu: middle - begin,
            unpublish_cpu: end - middle,
        })
    }

    /// Each caller makes so many empty round trips.
    pub(crate) fn probes(&mut self, each: usize) -> Outcome<Throughput> {
        let probe = Call::new("csi.v1.Identity/Probe", &csi::ProbeRequest {})?;
        let begin = Instant::now();
        let callers = self.kept.iter_mut().map(async |kept| {
            for _ in 0..each {
                kept.call(&probe).await?;
            }
            Outcome::Ok(())
        });
        let count = callers.len() * each;
        self.runtime.block_on(callers.collect::<FuturesUnordered<_>>().try_collect::<()>())?;
        Ok(Throughput { count, took: begin.elapsed().as_secs_f64() })
    }

    /// Each caller publishes and unpublishes one of the volumes `each` times.
    pub(crate) fn pairs(&mut self, volumes: &[Volume], each: usize) -> Outcome<Throughput> {
        let volumes = volumes.get(..self.kept.len()).ok_or("fewer volumes than callers")?;
        let (times, took) = self.run(self.kept.len(), volumes, Task::Pairs(each))?;
        Ok(Throughput { count: times.len(), took })
    }

    /// Publishes volumes by all callers.
    pub(crate) fn publish(&mut self, volumes: &[Volume]) -> Outcome<()> {
        self.run(self.kept.len(), volumes, Task::Each(What::Publish)).map(drop)
    }

    /// Unpublishes volumes by all callers.
    pub(crate) fn unpublish(&mut self, volumes: &[Volume]) -> Outcome<()> {
        self.run(self.kept.len(), volumes, Task::Each(What::Unpublish)).map(drop)
    }

    fn run(&mut self, callers: usize, volumes: &[Volume], task: Task) -> Outcome<(Vec<f64>, f64)> {
        let callers = match callers {
            1 => vec![Caller::Alone(NodeClient::new(self.channel.clone()), volumes)],
            many => {
                let share = volumes.len().div_ceil(many.max(1)).max(1);
                let kept = self.kept.iter_mut().take(many).zip(volumes.chunks(share));
                kept.map(|(kept, volumes)| Caller::kept(kept, volumes)).collect::<Outcome<_>>()?
            }
        };
        self.runtime.block_on(at_once(callers, task))
    }

    /// Closes all connections; gives back the runtime that turns their ends, which has to run on for that.
    pub(crate) fn close(self) -> Runtime {
        self.runtime
    }
}
