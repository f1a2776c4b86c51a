//! The Node service. Every call reads the same: message -> request -> policy -> gate -> mount thread -> answer.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures_util::{FutureExt, TryFutureExt};
use tonic::{Request, Response, Status};

use super::request::{self, Publish, Stage, VolumeAt};
use super::status::CallError;
use crate::config::Missing;
use crate::engine::{self, AttachJob, Context};
use crate::gate::Pass;
use crate::lookup::Lookup;
use crate::mount_error::MountError;
use crate::note::{Asked, Note, Owner};
use crate::observe::SourcePath;
use crate::plugin::{Plugin, Subject, crew_of, cut};
use crate::policy::{self, Grant, Wish};
use crate::propagation::MountPropagation;
use crate::site::Site;
use crate::sys::stat::{MountAttrs, Usage};
use crate::threads::{Crew, Job, Lead, MountThread, NoResult};
use crate::vitals::Vital;
use crate::volume::KubeletPath;
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

impl Node {
    fn list(&self) -> Result<Arc<crate::config::AllowList>, CallError> {
        self.plugin.list().map_err(CallError::NoConfiguration)
    }

    fn kubelet_dir(&self) -> &crate::volume::AbsPath {
        &self.plugin.threads.site().kubelet_dir
    }

    /// Runs a job on a mount thread of the caller. The pass goes with the job, not with the wait: while a hung job
    /// may still change the target, nobody else gets at it.
    fn on_thread<T: Send + 'static>(
        &self,
        crew: &Arc<Crew>,
        source: &str,
        pass: Option<Pass>,
        job: impl Job<Result<T, MountError>>,
    ) -> impl Future<Output = Result<T, CallError>> {
        let work = move |thread: &mut MountThread, cancelled: &dyn Fn() -> bool| {
            let result = job(thread, cancelled);
            drop(pass);
            result
        };
        self.plugin.threads.run_by(Some(&self.lead), crew, source, self.plugin.deadline, work).map(|ran| Ok(ran??))
    }

    async fn attach(&self, crew: &Arc<Crew>, job: AttachJob) -> Result<bool, CallError> {
        let pass = self.plugin.gate.enter(job.target.as_path())?;
        let source = job.source.full();
        self.on_thread(crew, &source.to_string_lossy(), Some(pass), move |thread, cancelled| {
            let site = Arc::clone(&thread.site);
            let mut context = Context { site: &site, cancelled, step: &mut |run, step| run.run(step) };
            let slot = engine::attach(&mut context, &mut || thread.take_slot(), &job)?;
            let made = slot.is_some();
            // Only after success: what a failed job has left on its slot is cleared before the next use.
            if let Some(slot) = slot {
                thread.give_back(slot);
            }
            Ok(made)
        })
        .await
    }

    async fn detach(&self, crew: &Arc<Crew>, at: &VolumeAt, remove: bool) -> Result<(), CallError> {
        let pass = self.plugin.gate.enter(at.path.as_path())?;
        let path = at.path.clone();
        self.on_thread(crew, &at.id, Some(pass), move |thread, cancelled| {
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
        let source = self.on_thread(crew, "notes", None, noted).await?;
        let source = source.map_or_else(|| at.id.clone(), |note| note.full_path().to_string_lossy().into_owned());
        let path = at.path.clone();
        self.on_thread(crew, &source, None, move |thread, _| look(&thread.site, &path)).await
    }

    async fn stage(&self, request: &Request<csi::NodeStageVolumeRequest>) -> Result<(), CallError> {
        let Stage { volume, staging } = Stage::read(request.get_ref(), self.kubelet_dir())?;
        let list = self.list()?;
        // Staging serves every pod of the volume on this node; who may is asked when it is published.
        let wish = Wish { volume, propagation: None, read_only: false, pod: None, check_user: false };
        let grant = policy::decide(&list, &wish)?;
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
            owner: None,
            follow: false,
        };
        self.attach(&crew_of(request)?, job).await.map(drop)
    }

    /// The volume as it would be published with this propagation.
    fn grant(&self, asked: &Publish, propagation: Option<MountPropagation>) -> Result<Grant, CallError> {
        let Publish { volume, asked: Asked { read_only, .. }, pod, .. } = asked;
        let (volume, pod) = (volume.clone(), pod.clone());
        Ok(policy::decide(&*self.list()?, &Wish { volume, propagation, read_only: *read_only, pod, check_user: true })?)
    }

    /// What the pod wants of a volume that doesn't say it itself. None: the pod has the volume already, as it should be.
    async fn wished(
        &self,
        lookup: &Lookup,
        asked: &Publish,
        crew: &Arc<Crew>,
    ) -> Result<Option<MountPropagation>, CallError> {
        // Who may not have the entry at all hears so at once, whatever the pod wants.
        let least = self.grant(asked, None)?;
        let wish = lookup.wish(&asked.target, asked.inline, asked.pod.as_deref()).await?;
        tracing::debug!(strongest = %wish.strongest, at_start = %wish.at_start, "the pod's wish");
        // A container that was added to the running pod can't change the volume that the pod has. When the
        // kubelet repeats its call, failing it would cost the pod that volume.
        if wish.at_start != wish.strongest && wish.at_start <= least.entry.ceiling {
            let grant = self.grant(asked, Some(wish.at_start))?;
            let job = publish_job(asked, &grant);
            let source = job.source.full();
            let look = move |thread: &mut MountThread, _: &dyn Fn() -> bool| engine::is_attached(&thread.site, &job);
            if self.on_thread(crew, &source.to_string_lossy(), None, look).await? {
                return Ok(None);
            }
        }
        Ok(Some(wish.strongest))
    }

    async fn publish(&self, request: &Request<csi::NodePublishVolumeRequest>) -> Result<(), CallError> {
        let asked = Publish::read(request.get_ref(), self.kubelet_dir())?;
        let crew = crew_of(request)?;
        let mut propagation = asked.asked.propagation;
        if let (None, Some(lookup)) = (propagation, &self.plugin.lookup) {
            // Boxed, or each call would carry along the room that a look-up takes, also where there is none.
            let Some(wished) = Box::pin(self.wished(lookup, &asked, &crew)).await? else { return Ok(()) };
            propagation = Some(wished);
        }
        let grant = self.grant(&asked, propagation)?;
        if let Some(warning) = &grant.warning {
            tracing::warn!(warning);
        }
        if self.attach(&crew, publish_job(&asked, &grant)).await? {
            self.plugin.metrics.published(grant.propagation);
        }
        Ok(())
    }

    async fn stats(&self, request: &Request<csi::NodeGetVolumeStatsRequest>) -> Result<Usage, CallError> {
        let message = request.get_ref();
        let path = &message.volume_path;
        let at = VolumeAt::read_to_look(&message.volume_id, "volume_path", path, self.kubelet_dir())?
            .ok_or_else(|| MountError::NotPublished { path: path.into() })?;
        self.look(&crew_of(request)?, &at, engine::usage).await
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
        let crew = crew_of(request)?;
        let looked = if path.is_empty() {
            let volume = request::handle(&id)?;
            let wish = Wish { volume, propagation: None, read_only: false, pod: None, check_user: false };
            let Grant { entry, sub_path, .. } = policy::decide(&*self.list()?, &wish)?;
            let source = SourcePath { entry: entry.path.clone(), sub_path, missing: Missing::Fail };
            let name = source.full();
            let look =
                move |thread: &mut MountThread, _: &dyn Fn() -> bool| engine::source_health(&thread.site, &source);
            self.on_thread(&crew, &name.to_string_lossy(), None, look).await
        } else {
            let at = VolumeAt::read_to_look(&id, "volume_publish_path", path, self.kubelet_dir())?
                .ok_or_else(|| MountError::NotPublished { path: path.into() })?;
            self.look(&crew, &at, engine::health).await
        };
        // A file system that does not answer is not an error of this call: it is the answer.
        let (vital, message) = match looked {
            Ok(gone) => (Vital::from(gone), Vital::from(gone).message()),
            Err(CallError::NoResult(hung @ (NoResult::Deadline { .. } | NoResult::Stuck { .. }))) => {
                (Vital::Hung, hung.to_string())
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
            message,
        };
        let health_statuses = status.map(entry).into_iter().collect();
        Ok(csi::VolumeHealth { volume_id: id, health_statuses })
    }
}

fn publish_job(asked: &Publish, grant: &Grant) -> AttachJob {
    let Grant { entry, sub_path, propagation, .. } = grant;
    AttachJob {
        source: SourcePath { entry: entry.path.clone(), sub_path: sub_path.clone(), missing: entry.missing },
        target: asked.target.clone(),
        staging: asked.staging.clone(),
        relation: *propagation,
        lower: false,
        attrs: grant.attrs(asked.asked.attrs),
        single_writer: asked.single_writer,
        owner: Some(Owner {
            entry: entry.name.clone(),
            volume_id: Some(Arc::clone(&asked.id)),
            pod: asked.pod.clone(),
            asked: asked.asked,
        }),
        follow: false,
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
        let subject = Subject { rpc: "NodeStageVolume", volume: &request.get_ref().volume_id, pod: None };
        self.plugin.call(subject, self.stage(&request).map_ok(|()| csi::NodeStageVolumeResponse {})).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Answer<csi::NodeUnstageVolumeResponse> {
        let message = request.get_ref();
        let subject = Subject { rpc: "NodeUnstageVolume", volume: &message.volume_id, pod: None };
        let work = async {
            let path = &message.staging_target_path;
            let at = VolumeAt::read(&message.volume_id, "staging_target_path", path, self.kubelet_dir())?;
            self.detach(&crew_of(&request)?, &at, false).await.map(|()| csi::NodeUnstageVolumeResponse {})
        };
        self.plugin.call(subject, work).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Answer<csi::NodePublishVolumeResponse> {
        let pod = pod_of(&request.get_ref().volume_context);
        let subject = Subject { rpc: "NodePublishVolume", volume: &request.get_ref().volume_id, pod: pod.as_deref() };
        self.plugin.call(subject, self.publish(&request).map_ok(|()| csi::NodePublishVolumeResponse {})).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Answer<csi::NodeUnpublishVolumeResponse> {
        let message = request.get_ref();
        let subject = Subject { rpc: "NodeUnpublishVolume", volume: &message.volume_id, pod: None };
        let work = async {
            let at = VolumeAt::read(&message.volume_id, "target_path", &message.target_path, self.kubelet_dir())?;
            self.detach(&crew_of(&request)?, &at, true).await.map(|()| csi::NodeUnpublishVolumeResponse {})
        };
        self.plugin.call(subject, work).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Answer<csi::NodeGetVolumeStatsResponse> {
        let subject = Subject { rpc: "NodeGetVolumeStats", volume: &request.get_ref().volume_id, pod: None };
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
        let subject = Subject { rpc: "NodeGetVolumeHealth", volume: &request.get_ref().volume_id, pod: None };
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
        let subject = Subject { rpc: "NodeGetCapabilities", volume: "", pod: None };
        self.plugin.call(subject, async { Ok(csi::NodeGetCapabilitiesResponse { capabilities }) }).await
    }

    async fn node_get_info(&self, _: Request<csi::NodeGetInfoRequest>) -> Answer<csi::NodeGetInfoResponse> {
        let key = format!("{}/node", self.plugin.driver);
        let answer = csi::NodeGetInfoResponse {
            node_id: self.plugin.node_id.clone(),
            max_volumes_per_node: 0,
            accessible_topology: Some(csi::Topology { segments: HashMap::from([(key, self.plugin.node_id.clone())]) }),
        };
        self.plugin.call(Subject { rpc: "NodeGetInfo", volume: "", pod: None }, async { Ok(answer) }).await
    }
}
