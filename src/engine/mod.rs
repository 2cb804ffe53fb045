//! From a request to a result: admission, decoding, text embeddings, the model's worker threads,
//! the label map and its encoding, each under the request's deadline.
//!
//! Owns the order of the stages, the queue, the threads and all waiting. Knows nothing of HTTP; the
//! only libtorch here is in [`clip_labeller`].

pub mod clip_labeller;
mod cost;
mod labeller;
mod queue;
mod request;
mod segment;
mod slots;
mod text;
mod vocabulary;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::config::{Config, EngineConfig, LimitsConfig, VocabularyConfig};
use crate::telemetry::Metrics;
use crate::vocabulary::{DiskStore, EmbeddingStore, RecentLists, Registry};

pub use cost::CostError;
pub use labeller::{DenseFeatureGrid, Labeller, LabellerError, ModelInfo, Precision};
pub use request::{
    Background, ClassResult, OutputOptions, SegmentError, SegmentRequest, Segmentation, Timings, VocabularyChoice,
    Warning, WarningCode,
};
pub use worker::LabellerFactory;

use queue::JobQueue;
use slots::Slots;
use worker::{Job, WorkerContext, WorkersState};

/// The settings the engine obeys.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Queue, workers.
    pub engine: EngineConfig,
    /// What requests may ask for.
    pub limits: LimitsConfig,
    /// Sizes of the store and of the list of recent class lists.
    pub vocabulary: VocabularyConfig,
}

impl From<&Config> for EngineSettings {
    fn from(config: &Config) -> Self {
        Self {
            engine: config.engine.clone(),
            limits: config.limits.clone(),
            vocabulary: config.vocabulary.clone(),
        }
    }
}

/// Whether requests are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// No worker has been ready yet.
    Starting,
    /// At least one worker has a warm model.
    Ready,
    /// All workers have panicked and are loading the model anew.
    Recovering,
    /// The server is going down.
    Draining,
}

/// Labels images. Shared behind an `Arc`; dropping the last one ends the workers.
pub struct Engine {
    settings: EngineSettings,
    metrics: Arc<Metrics>,
    slots: Slots,
    queue: Arc<JobQueue<Job>>,
    workers: watch::Receiver<WorkersState>,
    draining: AtomicBool,
    embeddings: Arc<EmbeddingStore>,
    registry: Arc<Registry>,
    recent: RecentLists,
}

impl Engine {
    /// Starts the workers. Returns at once; [`Engine::ready`] waits for the model. Vocabularies and text embeddings
    /// outlive the engine on `disk`, if there is one.
    pub fn start(
        settings: EngineSettings,
        factory: LabellerFactory,
        disk: Option<Arc<DiskStore>>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let queue = Arc::new(JobQueue::new(metrics.queue_depth.clone()));
        let (state, workers) = watch::channel(WorkersState::Loading);
        let context = Arc::new(WorkerContext {
            queue: Arc::clone(&queue),
            factory,
            state,
            metrics: Arc::clone(&metrics),
        });
        worker::spawn(&context, settings.engine.workers);
        let embeddings = EmbeddingStore::new(settings.vocabulary.cache_bytes, disk.clone());
        metrics.watch_store(Arc::clone(&embeddings));
        Arc::new(Self {
            slots: Slots::new(settings.engine.queue_capacity, metrics.requests_in_flight.clone()),
            embeddings,
            registry: Arc::new(Registry::new(settings.limits.max_vocabularies, disk, SystemTime::now())),
            recent: RecentLists::new(settings.vocabulary.recent_lists),
            settings,
            metrics,
            queue,
            workers,
            draining: AtomicBool::new(false),
        })
    }

    /// Waits until the first worker is ready.
    ///
    /// # Errors
    /// When the model cannot be loaded: no request will ever be answered.
    pub async fn ready(&self) -> Result<Arc<ModelInfo>, Arc<LabellerError>> {
        let mut workers = self.workers.clone();
        let state = workers
            .wait_for(|state| !matches!(state, WorkersState::Loading))
            .await
            .expect("workers publish their state for as long as the engine lives");
        match &*state {
            WorkersState::Loaded { model, .. } => Ok(Arc::clone(model)),
            WorkersState::Failed(error) => Err(Arc::clone(error)),
            WorkersState::Loading => unreachable!("just waited for another state"),
        }
    }

    /// Whether requests are taken.
    pub fn readiness(&self) -> Readiness {
        if self.draining.load(Ordering::Relaxed) {
            return Readiness::Draining;
        }
        match &*self.workers.borrow() {
            WorkersState::Loading | WorkersState::Failed(_) => Readiness::Starting,
            WorkersState::Loaded { live: 0, .. } => Readiness::Recovering,
            WorkersState::Loaded { .. } => Readiness::Ready,
        }
    }

    /// Refuses further requests; those admitted go on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The model, once one has been loaded.
    pub fn model(&self) -> Option<Arc<ModelInfo>> {
        match &*self.workers.borrow() {
            WorkersState::Loaded { model, .. } => Some(Arc::clone(model)),
            WorkersState::Loading | WorkersState::Failed(_) => None,
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.close();
    }
}
