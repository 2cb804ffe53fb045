//! The steps from an image's bytes to a model's input or to cached features: digest, decode, preprocess. Also holds
//! uploaded images for later requests.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::admitted::{AdmittedRequest, CurrentStage};
use super::estimate::{Part, Workload};
use super::features::{FeatureKey, HeldFeatures, ImageDigest};
use super::footprint::{Dimensions, Footprint};
use super::images::EncodedImage;
use super::job::{ExtractJob, FeatureInput, Job};
use super::request::{EngineError, HeldImage, ImageRequest, ImageSource, InputOptions};
use super::{Arrival, Engine, Stage, cost};
use crate::dense::{Attention, DenseOptions, FeatureOptions, RefinementOptions, SmoothingKeys, check_grid};
use crate::image::{self, ImageHeader, ModelInput, Orientation};
use crate::labeller::{ImageFeatures, ModelKind};
use crate::telemetry::note;

impl Engine {
    /// Computes an image's features and holds both image and features, for a request that has arrived. Later requests
    /// name the image by [`ImageSource::Held`].
    ///
    /// Never waits for a free slot: a full engine fails at once, as in [`Engine::segment`].
    ///
    /// # Errors
    /// [`EngineError`] when the image or the options are refused, the engine is not ready or full, or the deadline
    /// passes.
    pub async fn hold_image(&self, arrival: Arrival, request: ImageRequest) -> Result<HeldImage, EngineError> {
        let held = self.hold_image_in_time(arrival, request).await;
        held.map_err(|error| self.counted(error))
    }

    async fn hold_image_in_time(&self, arrival: Arrival, request: ImageRequest) -> Result<HeldImage, EngineError> {
        let ImageRequest { image, fields } = request;
        let arrived = arrival.at;
        let deadline = self.deadline(fields.deadline_seconds, arrived)?;
        let host = self.find_host(fields.model.as_deref())?;
        let (options, input) = fields.resolve(self.surroundings(host))?;
        let stage = CurrentStage::default();
        let admitted = AdmittedRequest::admit(self, host, &stage, arrival, deadline)?;
        let held = admitted.hold_image(image, options, input);
        stage.until(arrived, deadline, held).await
    }
}

/// An image of which only the header has been read, or whose features are cached.
pub(super) struct SeenImage {
    bytes: Bytes,
    /// Width and height in pixels, after orientation.
    pub(super) size: (u32, u32),
    /// Cells of the model's grid, over all scales and windows.
    pub(super) cells: u64,
    /// Width and height of the model's input in pixels at each scale.
    input_sizes: Vec<(u32, u32)>,
    /// The header, if the image has to be decoded.
    header: Option<ImageHeader>,
    cached: Option<HeldFeatures>,
    /// The key under which the features are cached or may be; `None` when no features are kept.
    key: Option<FeatureKey>,
}

/// An image prepared for a worker.
pub(super) struct PreparedImage {
    /// What a worker gets: the model's input, or cached features.
    pub(super) input: FeatureInput,
    /// The key under which the features may be cached; `None` when they are cached already, or no features are kept.
    pub(super) key: Option<FeatureKey>,
}

impl SeenImage {
    /// Returns the number of pixels.
    pub(super) fn pixels(&self) -> u64 {
        let (width, height) = self.size;
        u64::from(width) * u64::from(height)
    }

    /// Returns columns and rows of the model's cells at the first scale, for patches of so many pixels.
    pub(super) fn first_grid(&self, patch_pixels: u32) -> (u32, u32) {
        let (width, height) = self.input_sizes[0];
        (width / patch_pixels, height / patch_pixels)
    }

    /// Returns whether the features are cached already.
    pub(super) fn is_cached(&self) -> bool {
        self.cached.is_some()
    }

    /// Returns the work for the features.
    pub(super) fn workload(&self) -> Workload {
        match self.is_cached() {
            true => Workload::default(),
            false => Workload::default().with(Part::Features, self.cells),
        }
    }
}

impl AdmittedRequest<'_> {
    async fn hold_image(
        mut self,
        image: Bytes,
        options: FeatureOptions,
        input: InputOptions,
    ) -> Result<HeldImage, EngineError> {
        self.check(&options)?;
        self.engine.images.check(&image)?;
        let digest = self.digest(&image).await?;
        let dense = DenseOptions {
            features: options,
            ..DenseOptions::default()
        };
        let seen = self.look(image.clone(), Some(digest), &dense, &input).await?;
        let (size, features_cached) = (seen.size, seen.is_cached());
        let footprint = Footprint::of_features(&self.dimensions(&seen));
        self.check_footprint(&footprint)?;
        self.reserve(&footprint, seen.workload()).await?;
        let prepared = self.prepare(seen, dense.refinement, &input).await?;
        self.shrink_to(footprint.after_pixels());
        // Features that will not be kept need not be computed.
        if let (FeatureInput::Pixels(input), Some(key)) = (prepared.input, prepared.key) {
            let job = |ticket| Job::Extract(ExtractJob { input, options, ticket });
            let features = self.on_worker(job).await?;
            self.hold_features(key, features, size, options.keys);
        }
        let image = EncodedImage { bytes: image, digest };
        let images = &self.engine.images;
        let (id, displaced) = images.hold(self.caller.id(), image.clone(), size, Instant::now());
        self.engine.unshare_images(displaced).await;
        let is_shared = self.engine.share_image(&self.caller, &id, &image, size).await;
        let (width, height) = size;
        Ok(HeldImage {
            id: id.to_string(),
            model: self.model.name.clone(),
            width,
            height,
            expires_in: self.engine.images.lifetime(),
            image_sha256: digest.to_string(),
            is_shared,
            features_cached,
            timings: self.timings,
        })
    }

    /// Returns the bytes of a request's image, with their digest if features are cached.
    ///
    /// # Errors
    /// [`EngineError::ImageNotHeld`] when the id of a held image is unknown.
    pub(super) async fn image(&self, source: &ImageSource) -> Result<(Bytes, Option<ImageDigest>), EngineError> {
        match source {
            ImageSource::Upload(bytes) if self.engine.features.is_on() => {
                Ok((bytes.clone(), Some(self.digest(bytes).await?)))
            }
            ImageSource::Upload(bytes) => Ok((bytes.clone(), None)),
            ImageSource::Held(id) => {
                let EncodedImage { bytes, digest } = self.engine.find_image(&self.caller, id).await?;
                Ok((bytes, Some(digest)))
            }
        }
    }

    async fn digest(&self, image: &Bytes) -> Result<ImageDigest, EngineError> {
        let image = image.clone();
        self.blocking("digest", move || ImageDigest::of(&image)).await
    }

    /// Looks an image's features up, and reads its header if it has to be decoded. Checks every limit on the model's
    /// input.
    pub(super) async fn look(
        &self,
        bytes: Bytes,
        digest: Option<ImageDigest>,
        dense: &DenseOptions,
        input: &InputOptions,
    ) -> Result<SeenImage, EngineError> {
        let options = &dense.features;
        let features = &self.engine.features;
        let model = (self.host.name.as_str(), self.model.options.short_side);
        let digest = digest.filter(|_| features.is_on());
        let key = digest.map(|digest| FeatureKey::new(digest, model, options, input));
        let cached = key
            .as_ref()
            .and_then(|key| features.get(self.caller.id(), key, options.keys));
        let (header, size) = match &cached {
            Some(HeldFeatures { size, .. }) if dense.refinement == RefinementOptions::None => (None, *size),
            Some(_) | None => {
                let header = self.header(bytes.clone(), input.orientation).await?;
                (Some(header), (header.width, header.height))
            }
        };
        note("pixels", i64::from(size.0) * i64::from(size.1));
        let (input_sizes, cells) = self.sizes(size, options, input)?;
        Ok(SeenImage {
            bytes,
            size,
            cells,
            input_sizes,
            header,
            cached,
            key,
        })
    }

    /// Returns what the footprint of an image's features depends on.
    pub(super) fn dimensions(&self, image: &SeenImage) -> Dimensions {
        let input_pixels = image
            .input_sizes
            .iter()
            .map(|&(width, height)| u64::from(width) * u64::from(height));
        let is_decoded = u64::from(image.header.is_some());
        Dimensions {
            decoding_bytes: image.header.map_or(0, |header| header.decoding_bytes),
            pixels: image.pixels(),
            input_pixels: is_decoded * input_pixels.sum::<u64>(),
            cells: image.cells,
            // Features, and keys that may be as long.
            cell_floats: 2 * self.model.embedding_dimension as u64,
            ..Dimensions::default()
        }
    }

    /// Returns cached features, with pixels if the refinement needs them; otherwise pixels only.
    pub(super) async fn prepare(
        &mut self,
        seen: SeenImage,
        refinement: RefinementOptions,
        input: &InputOptions,
    ) -> Result<PreparedImage, EngineError> {
        let SeenImage {
            bytes,
            input_sizes,
            cached,
            key,
            ..
        } = seen;
        let Some(HeldFeatures { features, .. }) = cached else {
            let input = FeatureInput::Pixels(self.model_input(bytes, input_sizes, input).await?);
            return Ok(PreparedImage { input, key });
        };
        let pixels = match refinement {
            RefinementOptions::None => None,
            RefinementOptions::Pamr | RefinementOptions::PearlPropagation { .. } => {
                Some(self.model_input(bytes, input_sizes, input).await?)
            }
        };
        let input = FeatureInput::Cached { features, pixels };
        Ok(PreparedImage { input, key: None })
    }

    /// Caches the features of an image of the given width and height. `keys` names the keys that the features contain.
    pub(super) fn hold_features(
        &self,
        key: FeatureKey,
        features: Arc<dyn ImageFeatures>,
        size: (u32, u32),
        keys: Option<SmoothingKeys>,
    ) {
        let held = HeldFeatures { features, keys, size };
        self.engine.features.hold(self.caller.id(), key, held);
    }

    /// Checks that the model can compute the options.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for an attention or a key smoothing that the model does not have.
    pub(super) fn check(&self, options: &FeatureOptions) -> Result<(), EngineError> {
        match self.host.kind {
            ModelKind::Clip => self.check_attention(options.attention),
            ModelKind::Student if options.keys.is_some() => Err(EngineError::Unsupported(format!(
                "the model {} is a student: it has no keys to smooth",
                self.model.name
            ))),
            // A student has no attention and ignores the option.
            ModelKind::Student => Ok(()),
        }
    }

    fn check_attention(&self, asked: Attention) -> Result<(), EngineError> {
        let possible = &self.model.attentions;
        if possible.contains(&asked) {
            return Ok(());
        }
        let possible = possible
            .iter()
            .map(|attention| attention.name())
            .collect::<Vec<_>>()
            .join(", ");
        Err(EngineError::Unsupported(format!(
            "the model {} ({}) cannot compute the attention {}; it can: {possible}",
            self.model.name,
            self.model.architecture,
            asked.name()
        )))
    }

    pub(super) async fn header(&self, bytes: Bytes, orientation: Orientation) -> Result<ImageHeader, EngineError> {
        self.enter(Stage::Decode);
        let max_pixels = self.engine.settings.input_limits.max_image_pixels;
        let read = move || image::read_header(&bytes, orientation, max_pixels);
        Ok(self.blocking("reading the header", read).await??)
    }

    /// Decodes an image and brings it to the sizes of the model's input, given as width and height in pixels.
    async fn model_input(
        &mut self,
        bytes: Bytes,
        sizes: Vec<(u32, u32)>,
        input: &InputOptions,
    ) -> Result<ModelInput, EngineError> {
        let max_pixels = self.engine.settings.input_limits.max_image_pixels;
        let &InputOptions {
            orientation, resize, ..
        } = input;
        let decode = move || image::decode(&bytes, orientation, max_pixels);
        let pixels = self.stage(Stage::Decode, decode).await??;
        let normalisation = self.model.normalisation;
        self.stage(Stage::Preprocess, move || ModelInput {
            image_height: pixels.height() as usize,
            image_width: pixels.width() as usize,
            sizes: sizes
                .into_iter()
                .map(|(width, height)| image::preprocess(&pixels, width, height, resize, &normalisation))
                .collect(),
        })
        .await
    }

    /// Returns width and height of the model's input in pixels at each scale, after checking every limit on them, and
    /// the number of cells of all scales and windows together.
    fn sizes(
        &self,
        (width, height): (u32, u32),
        options: &FeatureOptions,
        input: &InputOptions,
    ) -> Result<(Vec<(u32, u32)>, u64), EngineError> {
        let limits = &self.engine.settings.input_limits;
        let patch_pixels = self.model.patch_pixels;
        let short_side = input.short_side.unwrap_or(self.model.options.short_side);
        let mut sizes = Vec::with_capacity(input.scales.len());
        for &scale in &input.scales {
            let short_side = cost::scaled_short_side(short_side, scale, limits)?;
            let max_pixels = limits.max_input_pixels;
            sizes.push(
                input
                    .resize
                    .working_size(width, height, short_side, patch_pixels, max_pixels)?,
            );
        }
        cost::check_sizes(&sizes, options.window, patch_pixels, limits)?;
        let seen = |side: u32| options.window.map_or(side, |window| side.min(window.side));
        for &(width, height) in &sizes {
            let [rows, columns] = [height, width].map(|side| (seen(side) / patch_pixels) as usize);
            check_grid(options.attention, rows, columns)?;
            cost::check_pairs(rows * columns, options.attention, limits)?;
        }
        let cells = cost::cells(&sizes, options.window, patch_pixels);
        Ok((sizes, cells))
    }
}
