//! Masks of objects as COCO writes them: polygons and run lengths, drawn into a map of classes.
//!
//! A polygon covers the pixels that pycocotools' `frPyObjects` gives it: its border is drawn at five times the
//! resolution, and where that border passes from one column of pixels to the next, it bounds a run.

/// Largest number of pixels by which a polygon may leave its image, in any direction.
const MARGIN: f64 = 100_000.0;

/// Points per pixel on the border of a polygon.
const SCALE: f64 = 5.0;

/// The objects of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Shapes {
    /// Width of the image in pixels.
    pub width: u32,
    /// Height of the image in pixels.
    pub height: u32,
    /// The label of pixels without an object: a class, or [`UNLABELLED`](crate::scores::UNLABELLED).
    pub rest: u16,
    /// The objects with the label of each.
    pub objects: Vec<(u16, Shape)>,
    /// Which of the objects lie in front.
    pub order: DrawingOrder,
}

/// The order in which the objects of an image are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrawingOrder {
    /// Larger objects first, so that small ones in front of them stay; of equal ones, those listed later stay.
    LargestFirst,
    /// As they are listed.
    Listed,
}

/// The mask of one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Polygons whose union is the object: x and y of each corner in pixels, in turn.
    Polygons(Vec<Vec<f64>>),
    /// The lengths of runs outside and inside of the object in turn, down the columns from the left.
    Runs(Vec<u32>),
}

impl Shapes {
    /// Draws the labels, `[height, width]`, row by row.
    ///
    /// # Errors
    /// A reason in words when a mask does not fit the image.
    pub fn draw(&self) -> Result<Vec<u16>, String> {
        let (width, height) = (self.width as usize, self.height as usize);
        let mut masks = Vec::with_capacity(self.objects.len());
        for (label, shape) in &self.objects {
            let runs = shape.runs(width, height)?;
            let pixels: usize = runs.iter().map(|run| run.len()).sum();
            masks.push((pixels, *label, runs));
        }
        if self.order == DrawingOrder::LargestFirst {
            masks.sort_by_key(|(pixels, ..)| std::cmp::Reverse(*pixels));
        }
        let mut labels = vec![self.rest; width * height];
        for (_, label, runs) in masks {
            for position in runs.into_iter().flatten() {
                labels[position % height * width + position / height] = label;
            }
        }
        Ok(labels)
    }
}

/// Positions inside of a mask, counted down the columns.
type Run = std::ops::Range<usize>;

impl Shape {
    /// Returns the runs inside of the object.
    fn runs(&self, width: usize, height: usize) -> Result<Vec<Run>, String> {
        match self {
            Self::Polygons(polygons) => {
                let mut runs = Vec::new();
                for polygon in polygons {
                    runs.extend(polygon_runs(polygon, width, height)?);
                }
                Ok(united(runs))
            }
            Self::Runs(lengths) => {
                let (mut at, mut runs) = (0_usize, Vec::with_capacity(lengths.len() / 2));
                for (&length, is_inside) in lengths.iter().zip([false, true].into_iter().cycle()) {
                    let end = at.saturating_add(length as usize);
                    if is_inside {
                        runs.push(at..end);
                    }
                    at = end;
                }
                match at == width * height {
                    true => Ok(runs),
                    false => Err(format!("run lengths add up to {at} pixels, not to {width} x {height}")),
                }
            }
        }
    }
}

/// Returns the run lengths of a mask, `[height, width]`, row by row.
pub(super) fn runs_of(covered: &[bool], width: usize, height: usize) -> Vec<u32> {
    let mut lengths = vec![0];
    let mut is_inside = false;
    for position in 0..width * height {
        let covered = covered[position % height * width + position / height];
        if covered != is_inside {
            lengths.push(0);
            is_inside = covered;
        }
        *lengths.last_mut().expect("there is a first length") += 1;
    }
    lengths
}

/// Returns runs without overlaps, in their order.
fn united(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_by_key(|run| run.start);
    let mut united: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match united.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => united.push(run),
        }
    }
    united
}

/// Returns the runs inside of a polygon, by the steps of pycocotools' `rleFrPoly`.
fn polygon_runs(corners: &[f64], width: usize, height: usize) -> Result<Vec<Run>, String> {
    if corners.len() < 6 || corners.len() % 2 == 1 {
        return Err(format!(
            "a polygon has {} numbers, not x and y of at least three corners",
            corners.len()
        ));
    }
    let is_near = |value: &f64| (-MARGIN..=MARGIN + width.max(height) as f64).contains(value);
    if !corners.iter().all(is_near) {
        return Err("a corner of a polygon lies far outside of the image".to_owned());
    }
    let points = border(corners);
    let mut ends = Vec::new();
    for pair in points.windows(2) {
        let [(before_x, before_y), (x, y)] = [pair[0], pair[1]];
        if x == before_x {
            continue;
        }
        let column = if x < before_x { x } else { x - 1 };
        let column = (column as f64 + 0.5) / SCALE - 0.5;
        if column.floor() != column || column < 0.0 || column > width as f64 - 1.0 {
            continue;
        }
        let row = (y.min(before_y) as f64 + 0.5) / SCALE - 0.5;
        let row = row.clamp(0.0, height as f64).ceil();
        ends.push(column as usize * height + row as usize);
    }
    ends.push(width * height);
    ends.sort_unstable();
    // Between two ends in turn the mask is inside. Equal ends make empty runs.
    let pairs = ends.chunks_exact(2);
    Ok(pairs
        .map(|pair| pair[0]..pair[1])
        .filter(|run| !run.is_empty())
        .collect())
}

/// Returns the points of a polygon's border at five times the resolution, each a step of one from the one before.
fn border(corners: &[f64]) -> Vec<(i64, i64)> {
    let at_scale = |value: f64| (SCALE * value + 0.5) as i64;
    let corners: Vec<(i64, i64)> = corners
        .chunks_exact(2)
        .map(|at| (at_scale(at[0]), at_scale(at[1])))
        .collect();
    let mut points = Vec::new();
    for (&(x0, y0), &(x1, y1)) in corners.iter().zip(corners.iter().cycle().skip(1)) {
        let (across, down) = ((x1 - x0).abs(), (y1 - y0).abs());
        let is_flat = across >= down;
        let steps = if is_flat { across } else { down };
        // An edge is drawn from the left, or from the top, whichever way it goes, so that it rounds alike.
        let is_turned = if is_flat { x0 > x1 } else { y0 > y1 };
        let [(from_x, from_y), (to_x, to_y)] = if is_turned {
            [(x1, y1), (x0, y0)]
        } else {
            [(x0, y0), (x1, y1)]
        };
        let slope = match (steps, is_flat) {
            (0, _) => 0.0,
            (_, true) => (to_y - from_y) as f64 / steps as f64,
            (_, false) => (to_x - from_x) as f64 / steps as f64,
        };
        for step in 0..=steps {
            let step = if is_turned { steps - step } else { step };
            points.push(match is_flat {
                true => (from_x + step, (from_y as f64 + slope * step as f64 + 0.5) as i64),
                false => ((from_x as f64 + slope * step as f64 + 0.5) as i64, from_y + step),
            });
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::label_map::coco_runs;
    use crate::scores::UNLABELLED;

    /// An entry of coco_polygons.json, written by tools/golden/coco_polygons.py.
    #[derive(Deserialize)]
    struct Golden {
        width: u32,
        height: u32,
        polygons: Vec<Vec<f64>>,
        counts: String,
    }

    fn drawn(shape: Shape, width: u32, height: u32) -> Result<Vec<u16>, String> {
        let shapes = Shapes {
            width,
            height,
            rest: UNLABELLED,
            objects: vec![(3, shape)],
            order: DrawingOrder::LargestFirst,
        };
        shapes.draw()
    }

    #[test]
    fn polygons_cover_what_pycocotools_gives_them() {
        let text = include_str!("../../../tests/golden/coco_polygons.json");
        let goldens: Vec<Golden> = serde_json::from_str(text).expect("the goldens are JSON");
        assert!(goldens.len() > 20);
        for (place, golden) in goldens.into_iter().enumerate() {
            let ours = drawn(Shape::Polygons(golden.polygons), golden.width, golden.height);
            let runs = coco_runs(&golden.counts).expect("runs");
            assert_eq!(ours, drawn(Shape::Runs(runs), golden.width, golden.height), "{place}");
        }
    }

    #[test]
    fn small_objects_stay_in_front_of_large_ones() {
        let square = |side: f64| Shape::Polygons(vec![vec![0.0, 0.0, side, 0.0, side, side, 0.0, side]]);
        let shapes = |objects| Shapes {
            width: 3,
            height: 2,
            rest: 7,
            objects,
            order: DrawingOrder::LargestFirst,
        };
        for objects in [
            vec![(0, square(2.0)), (1, square(1.0))],
            vec![(1, square(1.0)), (0, square(2.0))],
        ] {
            assert_eq!(shapes(objects).draw(), Ok(vec![1, 0, 7, 0, 0, 7]));
        }
        assert_eq!(
            shapes(vec![(0, square(1.0)), (1, square(1.0))]).draw(),
            Ok(vec![1, 7, 7, 7, 7, 7])
        );
    }

    #[test]
    fn masks_that_do_not_fit_are_refused() {
        for (shape, reason) in [
            (Shape::Runs(vec![0, 5]), "run lengths add up to 5 pixels, not to 3 x 2"),
            (
                Shape::Runs(vec![u32::MAX; 3]),
                "run lengths add up to 12884901885 pixels, not to 3 x 2",
            ),
            (
                Shape::Polygons(vec![vec![0.0, 0.0, 1.0, 1.0]]),
                "a polygon has 4 numbers, not x and y of at least three corners",
            ),
            (
                Shape::Polygons(vec![vec![0.0, 0.0, 1e9, 1.0, 0.0, 1.0]]),
                "a corner of a polygon lies far outside of the image",
            ),
            (
                Shape::Polygons(vec![vec![0.0, f64::NAN, 1.0, 1.0, 0.0, 1.0]]),
                "a corner of a polygon lies far outside of the image",
            ),
        ] {
            assert_eq!(drawn(shape, 3, 2), Err(reason.to_owned()));
        }
    }
}
