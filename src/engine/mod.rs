//! The engine takes a request to its result: admission, decoding, text embeddings, the model's worker threads, the
//! label map and its encoding, all within the request's deadline.
//!
//! The engine owns the order of the stages, the queues, the threads and all waiting. It knows neither HTTP nor tensors.

mod admission;
mod admitted;
mod batching;
mod budget;
mod caller;
mod cost;
mod defaults;
mod estimate;
mod extraction;
mod features;
mod field;
mod footprint;
mod host;
mod images;
mod job;
mod limits;
mod metrics;
mod model_state;
mod protocols;
mod queue;
mod request;
mod segment;
mod settings;
mod shared_images;
mod similar;
mod slots;
mod stage;
mod supervision;
mod text;
mod vocabulary;
mod whole_image;
mod worker;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Semaphore;

use crate::labeller::{LabellerError, ModelInfo, ServedModel};
use crate::shared::{SharedState, SharedTexts};
use crate::telemetry::{MetricsRegistry, note};
use crate::vocabulary::{
    DiskStore, EmbeddingStore, RecentLists, VocabularyRegistry, VocabularySettings, register_lists,
};

pub use admission::Arrival;
pub use budget::HeldBytes;
pub use caller::{Caller, Callers};
pub use cost::CostError;
pub use defaults::DefaultSettings;
pub use field::Field;
pub use images::HeldImageStatus;
pub use limits::InputLimits;
pub use model_state::{ModelState, ModelStatus};
pub use protocols::{Protocol, ProtocolData, ProtocolMethod};
pub use request::{
    Background, BackgroundFields, BackgroundNames, ClassResult, ClassScore, Classification, ClassifyFields,
    ClassifyRequest, EmbedError, EmbedInput, EmbedRequest, Embeddings, EngineError, FeatureFields, FieldError,
    HeldImage, ImageRequest, ImageSource, InputOptions, KeySmoothingFields, OutputOptions, ProbabilityMaps,
    SegmentFields, SegmentOptions, SegmentRequest, Segmentation, Similarity, SimilarityRequest, Surroundings, Timings,
    VocabularyChoice, Warning, WarningCode, WindowFields,
};
pub use settings::{EngineSettings, ImageSettings, QueueSettings, ReadyWhen};
pub use stage::Stage;

use budget::Budget;
use features::FeatureCache;
use host::ModelHost;
use images::HeldImages;
use metrics::EngineMetrics;
use shared_images::Fetching;
use slots::Slots;

/// How often a closing engine looks whether its work is done.
const CLOSING_POLL: Duration = Duration::from_millis(5);

/// Whether the engine takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// At least one model has not had a ready worker yet.
    Starting,
    /// Every model answers, or one of them if `engine.ready_when` is `any`.
    Ready,
    /// All workers of a model have panicked and are loading it again. Requests to other models are answered.
    Recovering,
    /// The server is shutting down.
    Draining,
}

/// Labels images with the served models. Share it behind an `Arc`; dropping the last one ends the workers.
pub struct Engine {
    settings: EngineSettings,
    metrics: EngineMetrics,
    slots: Slots,
    /// Bytes for the bodies of requests, setting `engine.body_bytes`.
    bodies: Arc<Budget>,
    /// Bytes for the work on requests, setting `engine.work_bytes`.
    work: Arc<Budget>,
    /// Places at the work that callers take turns for, beside the one that each has for itself: together as many as there
    /// are processors, so that a caller alone leaves none idle, and whoever has the next turn shares them with few.
    places: Arc<Semaphore>,
    /// The models in the order of the settings, the default first. Never empty.
    models: Vec<ModelHost>,
    draining: AtomicBool,
    callers: Callers,
    features: Arc<FeatureCache>,
    images: Arc<HeldImages>,
    /// The images that are being read from the shared state.
    fetching: Fetching,
    embeddings: Arc<EmbeddingStore>,
    registry: Arc<VocabularyRegistry>,
    recent: Arc<RecentLists>,
    /// What all replicas have in common, if this engine is one of several.
    shared: Option<Arc<SharedState>>,
}

impl Engine {
    /// Starts the workers of all models and returns at once; [`Engine::ready`] waits for them. Every model needs a name
    /// of its own. Requests that name no model go to the first one. With `disk`, vocabularies and text embeddings
    /// outlive the engine. The engine's metrics appear in `registry`.
    ///
    /// # Panics
    /// When `models` is empty.
    pub fn start(
        settings: EngineSettings,
        models: Vec<ServedModel>,
        disk: Option<Arc<DiskStore>>,
        registry: &MetricsRegistry,
    ) -> Arc<Self> {
        Self::start_replica(settings, models, disk, None, registry)
    }

    /// Starts an engine like [`Engine::start`] that has vocabularies, text embeddings and held images in common with other
    /// replicas.
    ///
    /// # Panics
    /// When `models` is empty.
    pub fn start_replica(
        settings: EngineSettings,
        models: Vec<ServedModel>,
        disk: Option<Arc<DiskStore>>,
        shared: Option<Arc<SharedState>>,
        registry: &MetricsRegistry,
    ) -> Arc<Self> {
        assert!(!models.is_empty(), "the settings have at least one model");
        let metrics = EngineMetrics::new(registry);
        let models = models
            .into_iter()
            .map(|model| ModelHost::start(model, &settings, &metrics));
        let models = models.collect();
        let max_waiting_texts = settings.queue.max_waiting_texts;
        let shared_texts = shared.clone().map(|shared| shared as Arc<dyn SharedTexts>);
        let cache_bytes = settings.vocabulary.cache_bytes;
        let embeddings = EmbeddingStore::with_shared(cache_bytes, max_waiting_texts, disk.clone(), shared_texts);
        embeddings.register(registry);
        let features = Arc::new(FeatureCache::new(settings.images.cache_bytes));
        let lifetime = Duration::from_secs_f64(settings.images.keep_seconds);
        let images = Arc::new(HeldImages::new(settings.images.held_bytes, lifetime));
        metrics::register_images(registry, &features, &images);
        let [bodies, work] =
            [settings.queue.body_bytes, settings.queue.work_bytes].map(|bytes| Arc::new(Budget::new(bytes)));
        metrics::register_budgets(registry, &bodies, &work);
        metrics.requests_capacity.set(settings.queue.queue_capacity as i64);
        let limits = settings.vocabulary.registry_limits(&settings.vocabulary_limits);
        let vocabularies = VocabularyRegistry::with_shared(limits, disk, shared.clone(), SystemTime::now());
        let vocabularies = Arc::new(vocabularies);
        let VocabularySettings {
            recent_lists,
            recent_bytes,
            ..
        } = settings.vocabulary;
        let recent = Arc::new(RecentLists::new(recent_lists, recent_bytes));
        register_lists(registry, &vocabularies, &recent);
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Arc::new(Self {
            slots: Slots::new(settings.queue.queue_capacity, metrics.requests_in_flight.clone()),
            bodies,
            work,
            places: Arc::new(Semaphore::new((processors - 1).max(1))),
            features,
            images,
            fetching: Fetching::default(),
            embeddings,
            registry: vocabularies,
            recent,
            shared,
            settings,
            metrics,
            models,
            draining: AtomicBool::new(false),
            callers: Callers::default(),
        })
    }

    /// Returns the engine's settings.
    pub fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// Returns the callers that requests can come from.
    pub fn callers(&self) -> &Callers {
        &self.callers
    }

    /// Waits until every model has a ready worker. Returns the models' descriptions in the order of the settings.
    ///
    /// # Errors
    /// The error of the first model that cannot be loaded. No request to that model will ever be answered.
    pub async fn ready(&self) -> Result<Vec<Arc<ModelInfo>>, Arc<LabellerError>> {
        let mut models = Vec::with_capacity(self.models.len());
        for host in &self.models {
            models.push(host.ready().await?);
        }
        Ok(models)
    }

    /// Returns [`Readiness::Draining`], or what the models' states come to: the worst of them, or the best if
    /// `engine.ready_when` is `any`.
    pub fn readiness(&self) -> Readiness {
        if self.draining.load(Ordering::Relaxed) {
            return Readiness::Draining;
        }
        let states: Vec<_> = self.models.iter().map(ModelHost::state).collect();
        let are_enough_ready = match self.settings.queue.ready_when {
            ReadyWhen::All => states.iter().all(|state| *state == ModelState::Ready),
            ReadyWhen::Any => states.contains(&ModelState::Ready),
        };
        if are_enough_ready {
            Readiness::Ready
        } else if states.contains(&ModelState::Starting) {
            Readiness::Starting
        } else {
            Readiness::Recovering
        }
    }

    /// Returns whether what replicas have in common can be reached; `None` where nothing is shared.
    pub fn reaches_shared_state(&self) -> Option<bool> {
        self.shared.as_ref().map(|shared| shared.is_reachable())
    }

    /// Returns the state of every model in the order of the settings.
    pub fn model_states(&self) -> Vec<ModelStatus> {
        self.models.iter().map(ModelHost::status).collect()
    }

    /// Refuses further requests. Admitted requests run to their end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Refuses further requests and all work that waits for a worker, and gives text embeddings that are being computed
    /// until `until` to be kept. Then writes the store on disk back into its one file, and stops using it. The engine
    /// answers no more afterwards.
    ///
    /// Worker threads end after their present job, but this function waits neither for one that loads a model nor for
    /// one whose job nobody waits for any more: both may take long, and nothing would come of it. So threads may be
    /// inside libtorch when this function returns, and its static destructors must not run under them: end the process
    /// with `_exit`.
    pub async fn close(&self, until: Instant) {
        self.drain();
        self.models.iter().for_each(ModelHost::close);
        while !self.embeddings.is_idle() && Instant::now() < until {
            tokio::time::sleep(CLOSING_POLL).await;
        }
        self.embeddings.close_disk(until).await;
    }

    /// Returns the loaded models in the order of the settings, each with whether it answers now.
    pub fn models(&self) -> Vec<(Arc<ModelInfo>, bool)> {
        let loaded = |host: &ModelHost| Some((host.info()?, host.state() == ModelState::Ready));
        self.models.iter().filter_map(loaded).collect()
    }

    /// Returns the names of all models in the order of the settings, each with its description once it has been loaded.
    pub fn names(&self) -> Vec<(&str, Option<Arc<ModelInfo>>)> {
        self.models
            .iter()
            .map(|host| (host.name.as_str(), host.info()))
            .collect()
    }

    /// Returns the model that a request names, or the first one. Works before any model is loaded. Says which it is in
    /// the caller's span, where that has a field `model`.
    ///
    /// # Errors
    /// [`EngineError::UnknownModel`].
    fn find_host(&self, name: Option<&str>) -> Result<&ModelHost, EngineError> {
        let host = match name {
            None => &self.models[0],
            Some(name) => self.host(name)?,
        };
        note("model", host.name.clone());
        Ok(host)
    }

    /// Returns the model of that name.
    ///
    /// # Errors
    /// [`EngineError::UnknownModel`].
    fn host(&self, name: &str) -> Result<&ModelHost, EngineError> {
        let unknown = || EngineError::UnknownModel {
            asked: name.to_owned(),
            served: self.models.iter().map(|host| host.name.clone()).collect(),
        };
        self.models.iter().find(|host| host.name == name).ok_or_else(unknown)
    }
}
