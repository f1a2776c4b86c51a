//! The Node service. Every call reads the same: message -> request -> policy -> gate -> mount thread -> answer.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, TryFutureExt};
use tonic::{Request, Response, Status};

use super::request::{self, Publish, Stage, VolumeAt};
use super::status::CallError;
use crate::author::ForAuthor;
use crate::config::Missing;
use crate::engine::{self, AttachJob, Attached, Context};
use crate::gate::{Busy, Holder, Pass};
use crate::lookup::{Lookup, LookupError};
use crate::metrics::Kept;
use crate::mount_error::MountError;
use crate::note::{Asked, Note, Owner};
use crate::observe::SourcePath;
use crate::plugin::{Plugin, Subject, cut};
use crate::pod::PodWish;
use crate::policy::{self, Grant, Wish};
use crate::site::Site;
use crate::sys::stat::{MountAttrs, Usage};
use crate::threads::{Crew, Hold, Job, Lead, MountThread, NoResult, Source};
use crate::vitals::Vital;
use crate::volume::{EntryName, KubeletPath, PodIdentity, SubPath, VolumeKind, VolumeRef};
use crate::wire::csi;
use csi::node_service_capability::rpc::Type as Rpc;
use csi::volume_health::VolumeHealthEntry;
use csi::volume_usage::Unit;

/// The Node service of a plugin.
#[derive(Debug, Clone)]
pub struct Node {
    /// The plugin.
    pub plugin: Arc<Plugin>,
    /// In whose runtime it is served.
    pub lead: Arc<Lead>,
}

type Answer<T> = Result<Response<T>, Status>;

/// How often, and how long, a call waits for the plugin's own work on its volume.
const OWN_WAITS: u32 = 50;
const OWN_WAIT: Duration = Duration::from_millis(2);

/// Under which name jobs run that ask the kubelet's own file system only.
fn notes() -> Source {
    Source::own("notes")
}

impl Node {
    fn list(&self) -> Result<Arc<crate::config::AllowList>, CallError> {
        self.plugin.list().map_err(CallError::NoConfiguration)
    }

    fn kubelet_dir(&self) -> &crate::volume::AbsPath {
        &self.plugin.threads.site().kubelet_dir
    }

    /// Runs a job on a mount thread of the caller.
    fn on_thread<T: Send + 'static>(
        &self,
        crew: &Arc<Crew>,
        source: Source,
        hold: Hold,
        job: impl Job<Result<T, MountError>>,
    ) -> impl Future<Output = Result<T, CallError>> {
        self.plugin
            .threads
            .run_by(Some(&self.lead), crew, (source, hold), self.plugin.deadline, job)
            .map(|ran| Ok(ran??))
    }

    /// Enters the gate for a call. The plugin's own work on the volume is waited for a while: the kubelet, turned away, would
    /// come again only after half a second, or a minute.
    async fn enter(&self, path: &KubeletPath) -> Result<Pass, Busy> {
        let enter = || self.plugin.gate.enter(path.as_path(), Holder::Call);
        match enter() {
            Err(Busy { holder: Holder::Own, .. }) => {}
            other => return other,
        }
        // Boxed, or each call would carry along the room that a timer takes.
        Box::pin(async {
            for _ in 0..OWN_WAITS {
                tokio::time::sleep(OWN_WAIT).await;
                match enter() {
                    Err(Busy { holder: Holder::Own, .. }) => {}
                    other => return other,
                }
            }
            enter()
        })
        .await
    }

    /// A directory of an entry, as what may hang.
    fn source(&self, entry: &EntryName, path: &SourcePath) -> Source {
        let device = self.plugin.devices().of_entry(entry, path.sub_path.is_some());
        Source::directory(&path.full(), entry.as_str(), device)
    }

    /// Makes a volume of an entry appear. Whether it was made; not if it was there. One whose directory is dead or was deleted stays
    /// too: what a pod is given in its place is for healing alone to decide.
    async fn attach(&self, crew: &Arc<Crew>, entry: &EntryName, job: AttachJob) -> Result<bool, CallError> {
        // While a hung job may still change the target, nobody else gets at it; before it does, who unpublishes does.
        let hold = Hold::once_begun([Some(self.enter(&job.target).await?), None]);
        let source = self.source(entry, &job.source);
        let attached = self.on_thread(crew, source, hold, move |thread, cancelled| {
            let site = Arc::clone(&thread.site);
            let mut context = Context { site: &site, cancelled, step: &mut |run, step| run.run(step) };
            let attached = engine::attach(&mut context, &mut || thread.take_slot(), &job)?;
            // Only after success: what a failed job has left on its slot is cleared before the next use.
            Ok(attached.giving_back(|slot| thread.give_back(slot)))
        });
        match attached.await? {
            Attached::Made(()) => Ok(true),
            Attached::There | Attached::Kept { agrees: true } => Ok(false),
            Attached::Kept { agrees: false } => {
                tracing::warn!("the volume stays as it was published: the allow-list would give it otherwise now");
                self.plugin.metrics.kept(Kept::AllowList);
                Ok(false)
            }
        }
    }

    /// The answer to a call that failed: done, all the same, if what it asks for is there already.
    async fn unless_kept(
        &self,
        crew: &Arc<Crew>,
        (path, of): (KubeletPath, Option<(Owner, Option<SubPath>)>),
        error: CallError,
    ) -> Result<(), CallError> {
        let whose = match &error {
            CallError::Denied(_) | CallError::NoConfiguration(_) => Kept::AllowList,
            CallError::Lookup(_) => Kept::Lookup,
            CallError::NoResult(_) | CallError::Mount(_) => Kept::Source,
            CallError::Request(_) | CallError::Busy(_) | CallError::Caller(_) => return Err(error),
        };
        // What a call that hangs is about to mount, and may take back, isn't there yet.
        let Ok(pass) = self.enter(&path).await else { return Err(error) };
        let look =
            move |thread: &mut MountThread, _: &dyn Fn() -> bool| engine::is_kept(&thread.site, &path, of.as_ref());
        // Its source isn't asked, and may hang.
        match self.on_thread(crew, Source::kept(), Hold::to_its_end([Some(pass), None]), look).await {
            Ok(true) => {
                tracing::warn!(%error, "the volume stays as it was published: it would be refused now");
                self.plugin.metrics.kept(whose);
                Ok(())
            }
            _ => Err(error),
        }
    }

    async fn detach(&self, crew: &Arc<Crew>, at: &VolumeAt, remove: bool) -> Result<(), CallError> {
        let hold = Hold::to_its_end([Some(self.enter(&at.path).await?), None]);
        let path = at.path.clone();
        self.on_thread(crew, Source::ending(&at.id), hold, move |thread, cancelled| {
            let mut context = Context { site: &thread.site, cancelled, step: &mut |run, step| run.run(step) };
            engine::detach(&mut context, &path, remove)
        })
        .await
    }

    async fn look<T: Send + 'static>(
        &self,
        crew: &Arc<Crew>,
        at: &VolumeAt,
        look: fn(&Site, &KubeletPath) -> Result<T, MountError>,
    ) -> Result<T, CallError> {
        // Whatever source the volume is of: what hangs is counted there, however many volumes it has.
        let path = at.path.clone();
        let noted = move |thread: &mut MountThread, _: &dyn Fn() -> bool| Ok(Note::of(&thread.site, &path));
        let note = self.on_thread(crew, notes(), Hold::nothing(), noted).await?;
        let device = self.plugin.devices().of_volume(&at.path);
        let source = match note {
            Some(note) => Source::published(&note.full_path(), Some(note.owner.entry.as_str()), device),
            None => Source::published(std::path::Path::new(&at.id), None, device),
        };
        let path = at.path.clone();
        self.on_thread(crew, source, Hold::nothing(), move |thread, _| look(&thread.site, &path)).await
    }

    async fn stage(&self, request: &Request<csi::NodeStageVolumeRequest>) -> Result<(), CallError> {
        let read = || Stage::read(request.get_ref(), self.kubelet_dir());
        let asked = read()?;
        let crew = self.plugin.crew_of(request)?;
        match self.stage_new(asked, &crew).await {
            Ok(()) => Ok(()),
            // Read once more, or each call would pay for a copy of the path.
            Err(error) => {
                let path = read()?.staging;
                Box::pin(self.unless_kept(&crew, (path, None), error)).await
            }
        }
    }

    async fn stage_new(&self, Stage { volume, staging }: Stage, crew: &Arc<Crew>) -> Result<(), CallError> {
        let list = self.list()?;
        // Staging serves every pod of the volume on this node; who may is asked when it is published.
        let grant = policy::decide(&list, &for_the_node(volume))?;
        let attrs = grant.attrs(MountAttrs::default());
        let Grant { entry, sub_path, .. } = grant;
        let job = AttachJob {
            source: SourcePath { entry: entry.path.clone(), sub_path, missing: entry.missing },
            target: staging,
            staging: None,
            relation: entry.ceiling,
            lower: true,
            attrs,
            single_writer: false,
            user_namespace: false,
            owner: None,
            follow: false,
        };
        self.attach(crew, &entry.name, job).await.map(drop)
    }

    /// What the pod wants of a volume, by its Pod object.
    ///
    /// Asked for each volume, also for one that says its propagation: what else of the pod a volume depends on, nobody but
    /// the API server tells.
    async fn wished(&self, lookup: &Lookup, (asked, pod): (&Publish, &Arc<PodIdentity>)) -> Result<Wish, CallError> {
        let least = wish(asked);
        // Who may not have the entry at all hears so at once, whatever the pod wants.
        policy::entry(&*self.list()?, &least)?;
        let found = match asked.asked.propagation {
            Some(_) => lookup.pod(&asked.target, asked.inline, pod).await?,
            None => lookup.wish(&asked.target, asked.inline, pod).await?,
        };
        tracing::debug!(?found, "the pod's wish");
        let PodWish { propagation, kind, user_namespace } = found;
        Ok(Wish { propagation: least.propagation.or(Some(propagation)), kind, user_namespace, ..least })
    }

    async fn publish(&self, request: &Request<csi::NodePublishVolumeRequest>) -> Result<(), CallError> {
        let asked = Publish::read(request.get_ref(), self.kubelet_dir())?;
        let crew = self.plugin.crew_of(request)?;
        match self.publish_new(&asked, &crew).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let of = Some((owner(&asked), asked.volume.sub_path.clone()));
                Box::pin(self.unless_kept(&crew, (asked.target, of), error)).await
            }
        }
    }

    async fn publish_new(&self, asked: &Publish, crew: &Arc<Crew>) -> Result<(), CallError> {
        let wish = match &self.plugin.lookup {
            Some(lookup) => {
                let pod = asked.pod.as_ref().ok_or(LookupError::NoPodInfo)?;
                // Boxed, or each call would carry along the room that a look-up takes, also where there is none.
                Box::pin(self.wished(lookup, (asked, pod))).await?
            }
            None => wish(asked),
        };
        let grant = policy::decide(&*self.list()?, &wish)?;
        if let Some(warning) = &grant.warning {
            tracing::warn!(warning);
        }
        if self.attach(crew, &grant.entry.name, publish_job(asked, &grant)).await? {
            self.plugin.metrics.published(grant.propagation);
        }
        Ok(())
    }

    async fn stats(&self, request: &Request<csi::NodeGetVolumeStatsRequest>) -> Result<Usage, CallError> {
        let message = request.get_ref();
        let path = &message.volume_path;
        let at = VolumeAt::read_to_look(&message.volume_id, "volume_path", path, self.kubelet_dir())?
            .ok_or_else(|| MountError::NotPublished { path: path.into() })?;
        self.look(&self.plugin.crew_of(request)?, &at, engine::usage).await
    }

    /// Both paths of this request are optional: with neither, the volume's source is looked at.
    async fn health(&self, request: &Request<csi::NodeGetVolumeHealthRequest>) -> Result<csi::VolumeHealth, CallError> {
        let message = request.get_ref();
        let id = message.volume_id.clone();
        let path = if message.volume_publish_path.is_empty() {
            &message.staging_target_path
        } else {
            &message.volume_publish_path
        };
        let crew = self.plugin.crew_of(request)?;
        let looked = if path.is_empty() {
            let volume = request::handle(&id)?;
            let Grant { entry, sub_path, .. } = policy::decide(&*self.list()?, &for_the_node(volume))?;
            let source = SourcePath { entry: entry.path.clone(), sub_path, missing: Missing::Fail };
            let on = self.source(&entry.name, &source);
            let look =
                move |thread: &mut MountThread, _: &dyn Fn() -> bool| engine::source_health(&thread.site, &source);
            self.on_thread(&crew, on, Hold::nothing(), look).await
        } else {
            let at = VolumeAt::read_to_look(&id, "volume_publish_path", path, self.kubelet_dir())?
                .ok_or_else(|| MountError::NotPublished { path: path.into() })?;
            self.look(&crew, &at, engine::health).await
        };
        // A file system that does not answer is not an error of this call: it is the answer.
        let (vital, message) = match looked {
            Ok(gone) => (Vital::from(gone), Vital::from(gone).for_author()),
            Err(CallError::NoResult(hung @ (NoResult::Deadline { .. } | NoResult::Stuck { .. }))) => {
                (Vital::Hung, hung.for_author())
            }
            Err(e) => return Err(e),
        };
        let status = match vital {
            Vital::Live => None,
            Vital::Dead(_) | Vital::Hung => Some(csi::VolumeHealthErrorType::Inaccessible),
            Vital::Deleted => Some(csi::VolumeHealthErrorType::DataLoss),
        };
        let entry = |status: csi::VolumeHealthErrorType| VolumeHealthEntry {
            status: status.into(),
            reason: vital.reason().to_owned(),
            message: message.into(),
        };
        let health_statuses = status.map(entry).into_iter().collect();
        Ok(csi::VolumeHealth { volume_id: id, health_statuses })
    }
}

/// What is asked of an entry for the node itself, whoever may have it.
fn for_the_node(volume: VolumeRef) -> Wish {
    Wish {
        volume,
        propagation: None,
        read_only: false,
        pod_read_only: false,
        kind: VolumeKind::ClaimOrGenericEphemeral,
        user_namespace: false,
        pod: None,
        check_user: false,
    }
}

/// What a publish asks for, as far as its request tells.
fn wish(asked: &Publish) -> Wish {
    let Asked { propagation, read_only, pod_read_only, .. } = asked.asked;
    Wish {
        volume: asked.volume.clone(),
        propagation,
        read_only,
        pod_read_only,
        kind: asked.kind(),
        user_namespace: false,
        pod: asked.pod.clone(),
        check_user: true,
    }
}

fn publish_job(asked: &Publish, grant: &Grant) -> AttachJob {
    let Grant { entry, sub_path, propagation, user_namespace, .. } = grant;
    AttachJob {
        source: SourcePath { entry: entry.path.clone(), sub_path: sub_path.clone(), missing: entry.missing },
        target: asked.target.clone(),
        staging: asked.staging.clone(),
        relation: *propagation,
        lower: false,
        attrs: grant.attrs(asked.asked.attrs),
        single_writer: asked.single_writer,
        user_namespace: *user_namespace,
        owner: Some(owner(asked)),
        follow: false,
    }
}

fn owner(asked: &Publish) -> Owner {
    Owner {
        entry: asked.volume.entry.clone(),
        volume_id: Some(Arc::clone(&asked.id)),
        pod: asked.pod.clone(),
        asked: asked.asked,
    }
}

fn pod_of(context: &HashMap<String, String>) -> Option<String> {
    let (namespace, name) = (context.get(request::POD_NAMESPACE)?, context.get(request::POD_NAME)?);
    Some(cut(&format!("{namespace}/{name}"), 320).to_owned())
}

fn usage(values: [u64; 3], unit: Unit) -> csi::VolumeUsage {
    let [total, used, available] = values.map(|v| i64::try_from(v).unwrap_or(i64::MAX));
    csi::VolumeUsage { available, total, used, unit: unit.into() }
}

#[tonic::async_trait]
impl csi::node_server::Node for Node {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Answer<csi::NodeStageVolumeResponse> {
        let subject =
            Subject { rpc: "NodeStageVolume", volume: &request.get_ref().volume_id, pod: None, attributes: None };
        self.plugin.call(subject, self.stage(&request).map_ok(|()| csi::NodeStageVolumeResponse {})).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Answer<csi::NodeUnstageVolumeResponse> {
        let message = request.get_ref();
        let subject = Subject { rpc: "NodeUnstageVolume", volume: &message.volume_id, pod: None, attributes: None };
        let work = async {
            let path = &message.staging_target_path;
            let at = VolumeAt::read(&message.volume_id, "staging_target_path", path, self.kubelet_dir())?;
            self.detach(&self.plugin.crew_of(&request)?, &at, false).await.map(|()| csi::NodeUnstageVolumeResponse {})
        };
        self.plugin.call(subject, work).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Answer<csi::NodePublishVolumeResponse> {
        let pod = pod_of(&request.get_ref().volume_context);
        let message = request.get_ref();
        let attributes = Some(&message.volume_context);
        let subject = Subject { rpc: "NodePublishVolume", volume: &message.volume_id, pod: pod.as_deref(), attributes };
        self.plugin.call(subject, self.publish(&request).map_ok(|()| csi::NodePublishVolumeResponse {})).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Answer<csi::NodeUnpublishVolumeResponse> {
        let message = request.get_ref();
        let subject = Subject { rpc: "NodeUnpublishVolume", volume: &message.volume_id, pod: None, attributes: None };
        let work = async {
            let at = VolumeAt::read(&message.volume_id, "target_path", &message.target_path, self.kubelet_dir())?;
            self.detach(&self.plugin.crew_of(&request)?, &at, true).await.map(|()| csi::NodeUnpublishVolumeResponse {})
        };
        self.plugin.call(subject, work).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Answer<csi::NodeGetVolumeStatsResponse> {
        let subject =
            Subject { rpc: "NodeGetVolumeStats", volume: &request.get_ref().volume_id, pod: None, attributes: None };
        let work = async {
            let found = self.stats(&request).await?;
            let usage = vec![usage(found.bytes, Unit::Bytes), usage(found.inodes, Unit::Inodes)];
            Ok(csi::NodeGetVolumeStatsResponse { usage })
        };
        self.plugin.call(subject, work).await
    }

    async fn node_get_volume_health(
        &self,
        request: Request<csi::NodeGetVolumeHealthRequest>,
    ) -> Answer<csi::NodeGetVolumeHealthResponse> {
        let subject =
            Subject { rpc: "NodeGetVolumeHealth", volume: &request.get_ref().volume_id, pod: None, attributes: None };
        let work = async {
            let volume_health = Some(self.health(&request).await?);
            Ok(csi::NodeGetVolumeHealthResponse { volume_health })
        };
        self.plugin.call(subject, work).await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Answer<csi::NodeGetCapabilitiesResponse> {
        let offered = [Rpc::StageUnstageVolume, Rpc::GetVolumeStats, Rpc::SingleNodeMultiWriter, Rpc::GetVolumeHealth];
        let capabilities = offered
            .into_iter()
            .map(|rpc| csi::NodeServiceCapability {
                r#type: Some(csi::node_service_capability::Type::Rpc(csi::node_service_capability::Rpc {
                    r#type: rpc.into(),
                })),
            })
            .collect();
        let subject = Subject { rpc: "NodeGetCapabilities", volume: "", pod: None, attributes: None };
        self.plugin.call(subject, async { Ok(csi::NodeGetCapabilitiesResponse { capabilities }) }).await
    }

    async fn node_get_info(&self, request: Request<csi::NodeGetInfoRequest>) -> Answer<csi::NodeGetInfoResponse> {
        // The kubelet's first call, when it registers the plugin: it is answered also to whom no mount thread is to be had for.
        let _ = self.plugin.crew_of(&request);
        let key = format!("{}/node", self.plugin.driver);
        let answer = csi::NodeGetInfoResponse {
            node_id: self.plugin.node_id.clone(),
            max_volumes_per_node: 0,
            accessible_topology: Some(csi::Topology { segments: HashMap::from([(key, self.plugin.node_id.clone())]) }),
        };
        self.plugin
            .call(Subject { rpc: "NodeGetInfo", volume: "", pod: None, attributes: None }, async { Ok(answer) })
            .await
    }
}
