//! How alike the cells of a held image are to one point of it: the cosines of their features.

use std::sync::Arc;

use super::admitted::{AdmittedRequest, CurrentStage};
use super::field::Field;
use super::footprint::Footprint;
use super::job::{ExtractJob, FeatureInput, Job, SimilarJob};
use super::request::{EngineError, FieldError, ImageSource, InputOptions, Similarity, SimilarityRequest};
use super::{Arrival, Engine, Stage};
use crate::dense::{DenseOptions, FeatureOptions, RefinementOptions};
use crate::label_map::{encode_range, enlarge};
use crate::labeller::ImageFeatures;

impl Engine {
    /// Compares a held image with one of its own points, for a request that has arrived. With features that are kept, the
    /// model does not look at the image again.
    ///
    /// # Errors
    /// [`EngineError`] when the image is not held, the point lies outside of it, the options are refused, the engine is
    /// not ready or full, or the deadline passes.
    pub async fn similarity(&self, arrival: Arrival, request: SimilarityRequest) -> Result<Similarity, EngineError> {
        let similarity = self.similarity_in_time(arrival, request).await;
        similarity.map_err(|error| self.counted(error))
    }

    async fn similarity_in_time(
        &self,
        arrival: Arrival,
        request: SimilarityRequest,
    ) -> Result<Similarity, EngineError> {
        let SimilarityRequest {
            image_id,
            point,
            fields,
        } = request;
        let arrived = arrival.at;
        let deadline = self.deadline(fields.deadline_seconds, arrived)?;
        let host = self.find_host(fields.model.as_deref())?;
        let (options, input) = fields.resolve(self.surroundings(host))?;
        let stage = CurrentStage::default();
        let admitted = AdmittedRequest::admit(self, host, &stage, arrival, deadline)?;
        let similarity = admitted.similarity(ImageSource::Held(image_id), point, options, input);
        stage.until(arrived, deadline, similarity).await
    }
}

impl AdmittedRequest<'_> {
    async fn similarity(
        mut self,
        source: ImageSource,
        point: (f64, f64),
        options: FeatureOptions,
        input: InputOptions,
    ) -> Result<Similarity, EngineError> {
        self.check(&options)?;
        let (image, digest) = self.image(&source).await?;
        let image_sha256 = digest.map(|digest| digest.to_string());
        let dense = DenseOptions {
            features: options,
            ..DenseOptions::default()
        };
        let seen = self.look(image, digest, &dense, &input).await?;
        let (size, features_cached) = (seen.size, seen.is_cached());
        let place = place(point, size)?;
        let (columns, rows) = seen.first_grid(self.model.patch_pixels);
        let footprint = Footprint::of_features(&self.dimensions(&seen));
        self.check_footprint(&footprint)?;
        self.reserve(&footprint, seen.workload()).await?;
        let prepared = self.prepare(seen, RefinementOptions::None, &input).await?;
        self.shrink_to(footprint.after_pixels());
        let features = self.features(prepared.input, options).await?;
        if let Some(key) = prepared.key {
            self.hold_features(key, Arc::clone(&features), size, options.keys);
        }
        let job = |ticket| {
            Job::Similar(SimilarJob {
                features,
                place,
                ticket,
            })
        };
        let cosines = self.on_worker(job).await?;
        let encode = move || {
            let grid = enlarge(&cosines, rows as usize, columns as usize).grids.remove(0);
            encode_range(&grid.values, columns, rows)
        };
        let (map, range) = self.stage(Stage::Encode, encode).await?;
        let (width, height) = size;
        Ok(Similarity {
            model: self.model.name.clone(),
            width,
            height,
            columns,
            rows,
            image_sha256,
            map,
            range,
            features_cached,
            timings: self.timings,
        })
    }

    /// Returns features that are kept, or has a worker extract them.
    async fn features(
        &mut self,
        input: FeatureInput,
        options: FeatureOptions,
    ) -> Result<Arc<dyn ImageFeatures>, EngineError> {
        match input {
            FeatureInput::Cached { features, .. } => Ok(features),
            FeatureInput::Pixels(input) => {
                let job = |ticket| Job::Extract(ExtractJob { input, options, ticket });
                self.on_worker(job).await
            }
        }
    }
}

/// Returns a point as shares of the image's width and height.
///
/// # Errors
/// [`FieldError::OutOfRange`] for a point outside of the image.
fn place((x, y): (f64, f64), (width, height): (u32, u32)) -> Result<(f64, f64), FieldError> {
    let share = |field, value: f64, pixels: u32| {
        if (0.0..f64::from(pixels)).contains(&value) {
            return Ok(value / f64::from(pixels));
        }
        Err(FieldError::OutOfRange {
            field,
            range: format!("a pixel of the image, from 0 to below {pixels}"),
            value: value.to_string(),
            limit: None,
        })
    };
    Ok((share(Field::PointX, x, width)?, share(Field::PointY, y, height)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_share_of_the_image_and_lies_inside() {
        assert_eq!(place((8.0, 0.0), (16, 8)), Ok((0.5, 0.0)));
        let refused = |point| place(point, (16, 8)).map_err(|error| error.field());
        assert_eq!(refused((16.0, 0.0)), Err(Field::PointX));
        assert_eq!(refused((-0.1, 0.0)), Err(Field::PointX));
        assert_eq!(refused((0.0, 8.0)), Err(Field::PointY));
        assert_eq!(refused((0.0, f64::NAN)), Err(Field::PointY));
    }
}
