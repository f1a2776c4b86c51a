//! Calls any CSI driver over its socket, as one caller or as many, and times what it does.
//!
//! Two kinds of connection matter: one that is kept, on which a call costs what the driver makes of it, and the kubelet's
//! way, which opens a connection for each call. The main figures are of kept connections, one for each caller.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hostmount::wire::csi;
use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use csi::controller_client::ControllerClient;
use csi::identity_client::IdentityClient;
use csi::node_client::NodeClient;
use csi::node_service_capability::{Type, rpc};

use crate::samples::{Burst, Pairs, Round};
use crate::volume::Volume;
use crate::{Outcome, PATIENCE, micros, process};

/// A driver's client, with kept connections.
pub(crate) struct Client {
    socket: PathBuf,
    /// One caller's: what is timed there waits for nobody else.
    alone: Runtime,
    channel: Channel,
    /// Many callers', on two threads, so that the client isn't what limits them.
    together: Runtime,
    channels: Vec<Channel>,
}

/// What each caller does with each of its volumes.
#[derive(Debug, Clone, Copy)]
enum Task {
    Publish,
    Unpublish,
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

/// One caller: its volumes one after the other. From when to when, and what each call took in µs.
async fn caller(
    channel: Channel,
    volumes: Vec<Volume>,
    task: Task,
    start: Arc<Barrier>,
) -> Outcome<(Instant, Vec<f64>, Instant)> {
    let mut client = NodeClient::new(channel);
    let mut times = Vec::new();
    start.wait().await;
    let begin = Instant::now();
    for volume in &volumes {
        match task {
            Task::Publish => times.push(publish(&mut client, volume).await?),
            Task::Unpublish => times.push(unpublish(&mut client, volume).await?),
            Task::Pairs(many) => {
                for _ in 0..many {
                    times.push(publish(&mut client, volume).await? + unpublish(&mut client, volume).await?);
                }
            }
        }
    }
    Ok((begin, times, Instant::now()))
}

/// All callers, which begin together: what each call took in µs, and all together in seconds.
async fn at_once(channels: Vec<Channel>, volumes: &[Volume], task: Task) -> Outcome<(Vec<f64>, f64)> {
    let share = volumes.len().div_ceil(channels.len().max(1)).max(1);
    let shares: Vec<_> = channels.into_iter().zip(volumes.chunks(share)).collect();
    let start = Arc::new(Barrier::new(shares.len()));
    let mut running = JoinSet::new();
    for (channel, share) in shares {
        running.spawn(caller(channel, share.to_vec(), task, Arc::clone(&start)));
    }
    let (mut all, mut span): (_, Option<(Instant, Instant)>) = (Vec::new(), None);
    while let Some(ended) = running.join_next().await {
        let (begin, times, end) = ended??;
        all.extend(times);
        span = Some(span.map_or((begin, end), |(first, last)| (first.min(begin), last.max(end))));
    }
    let (first, last) = span.ok_or("no volumes to call for")?;
    Ok((all, (last - first).as_secs_f64()))
}

impl Client {
    /// Connects, as soon as the driver is ready. `alive` says why it never will be, if so.
    pub(crate) fn connect(socket: &Path, callers: usize, mut alive: impl FnMut() -> Outcome<()>) -> Outcome<Self> {
        let alone = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let together = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let deadline = Instant::now() + PATIENCE;
        let channel = loop {
            if let Some(channel) = alone.block_on(ready(socket))? {
                break channel;
            }
            alive()?;
            if Instant::now() > deadline {
                return Err(format!("nothing ready answers at {}", socket.display()).into());
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        let channels = together.block_on(async {
            let mut channels = Vec::new();
            for _ in 0..callers {
                channels.push(endpoint(socket)?.connect().await?);
            }
            Outcome::Ok(channels)
        })?;
        Ok(Self { socket: socket.to_owned(), alone, channel, together, channels })
    }

    /// The driver's name, as it says itself.
    pub(crate) fn name(&self) -> Outcome<String> {
        let mut client = IdentityClient::new(self.channel.clone());
        let answer = self.alone.block_on(client.get_plugin_info(csi::GetPluginInfoRequest {}))?;
        Ok(answer.into_inner().name)
    }

    /// Whether the driver stages volumes.
    pub(crate) fn stages(&self) -> Outcome<bool> {
        let mut client = NodeClient::new(self.channel.clone());
        let answer = self.alone.block_on(client.node_get_capabilities(csi::NodeGetCapabilitiesRequest {}))?;
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
        let answer = self.alone.block_on(client.create_volume(request)).map_err(|e| format!("CreateVolume: {e}"))?;
        Ok(answer.into_inner().volume.ok_or("CreateVolume answers without a volume")?)
    }

    /// Has the driver delete it again.
    pub(crate) fn delete(&self, volume: &Volume) -> Outcome<()> {
        let request = csi::DeleteVolumeRequest { volume_id: volume.id.clone(), ..Default::default() };
        let mut client = ControllerClient::new(self.channel.clone());
        self.alone.block_on(client.delete_volume(request)).map_err(failed("DeleteVolume", volume))?;
        Ok(())
    }

    /// Stages one volume.
    pub(crate) fn stage(&self, volume: &Volume) -> Outcome<f64> {
        self.alone.block_on(stage(&mut NodeClient::new(self.channel.clone()), volume))
    }

    /// Unstages it.
    pub(crate) fn unstage(&self, volume: &Volume) -> Outcome<f64> {
        self.alone.block_on(unstage(&mut NodeClient::new(self.channel.clone()), volume))
    }

    /// An empty round trip, in µs.
    pub(crate) fn probe(&self) -> Outcome<f64> {
        self.alone.block_on(async {
            let mut client = IdentityClient::new(self.channel.clone());
            let begin = Instant::now();
            client.probe(csi::ProbeRequest {}).await?;
            Ok(micros(begin))
        })
    }

    /// One caller's publish and unpublish, in µs.
    pub(crate) fn pair(&self, volume: &Volume) -> Outcome<(f64, f64)> {
        self.alone.block_on(async {
            let mut client = NodeClient::new(self.channel.clone());
            Ok((publish(&mut client, volume).await?, unpublish(&mut client, volume).await?))
        })
    }

    /// As the kubelet does it: each call with a connection of its own, which is part of what is timed.
    pub(crate) fn fresh(&self, volume: &Volume, round: &mut Round) -> Outcome<()> {
        let connect = || async { Outcome::Ok(endpoint(&self.socket)?.connect().await?) };
        self.alone.block_on(async {
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
    pub(crate) fn burst(&self, callers: usize, volumes: &[Volume], pid: u32) -> Outcome<Burst> {
        let begin = process::processor_time(pid)?;
        let (publish, publish_took) = self.run(callers, volumes, Task::Publish)?;
        let middle = process::processor_time(pid)?;
        let (unpublish, unpublish_took) = self.run(callers, volumes, Task::Unpublish)?;
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

    /// Each caller publishes and unpublishes one of the volumes `each` times.
    pub(crate) fn pairs(&self, volumes: &[Volume], each: usize) -> Outcome<Pairs> {
        let volumes = volumes.get(..self.channels.len()).ok_or("fewer volumes than callers")?;
        let (times, took) = self.run(self.channels.len(), volumes, Task::Pairs(each))?;
        Ok(Pairs { count: times.len(), took })
    }

    /// Publishes volumes by all callers.
    pub(crate) fn publish(&self, volumes: &[Volume]) -> Outcome<()> {
        self.run(self.channels.len(), volumes, Task::Publish).map(drop)
    }

    /// Unpublishes volumes by all callers.
    pub(crate) fn unpublish(&self, volumes: &[Volume]) -> Outcome<()> {
        self.run(self.channels.len(), volumes, Task::Unpublish).map(drop)
    }

    fn run(&self, callers: usize, volumes: &[Volume], task: Task) -> Outcome<(Vec<f64>, f64)> {
        if callers == 1 {
            return self.alone.block_on(at_once(vec![self.channel.clone()], volumes, task));
        }
        let channels = self.channels.iter().take(callers).cloned().collect();
        self.together.block_on(at_once(channels, volumes, task))
    }

    /// Closes all connections; gives back the runtime that turns their ends, which has to run on for that.
    pub(crate) fn close(self) -> Runtime {
        let Self { alone, channel, together, channels, .. } = self;
        drop((channel, channels));
        together.shutdown_timeout(Duration::from_secs(1));
        alone
    }
}
