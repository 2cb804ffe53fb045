//! Outlines of the classes of a label map as polygons with holes.
//!
//! The corners are those of pixels, so that a polygon covers exactly the pixels of its region, by the rules of every
//! program that asks for the centre of a pixel, pycocotools among them. Regions are connected by edges: two pixels
//! that share only a corner are two regions.

use crate::label_map::LabelMap;

/// A corner of pixels: x and y, counted from the left and from the top.
pub type Corner = [u32; 2];

/// A connected region: its outline and the outlines of its holes, each closed, without the first corner again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polygon {
    /// The outline, clockwise as the image is seen.
    pub outline: Vec<Corner>,
    /// The holes, counterclockwise, from left to right.
    pub holes: Vec<Vec<Corner>>,
    /// For each hole, the corner at which a cut to the left meets another outline.
    cuts: Vec<Corner>,
}

/// Returns the regions of a class, from the top to the bottom and from left to right.
pub fn outlines(map: &LabelMap, class_id: u16) -> Vec<Polygon> {
    let bounding_box = map
        .classes
        .get(usize::from(class_id))
        .and_then(|class| class.bounding_box);
    match bounding_box {
        Some(bounding_box) => Tracer::new(map, class_id, bounding_box).polygons(),
        None => Vec::new(),
    }
}

impl Polygon {
    /// Returns [`as_one_line`](Self::as_one_line) in percent of the sides of an image, `[width, height]` in pixels.
    pub fn in_percent(&self, size: [u32; 2]) -> Vec<[f64; 2]> {
        let percent = |corner: Corner| [0, 1].map(|axis| 100.0 * f64::from(corner[axis]) / f64::from(size[axis]));
        self.as_one_line().into_iter().map(percent).collect()
    }

    /// Returns the region as one closed line, for formats that have no holes. A cut leads to each hole and back on the
    /// same way, so that it takes no area.
    pub fn as_one_line(&self) -> Vec<Corner> {
        let mut line = self.outline.clone();
        for (hole, &cut) in self.holes.iter().zip(&self.cuts) {
            // A cut meets the outline, or a hole further to the left, which is part of the line by now.
            let next = |place: usize| line[(place + 1) % line.len()];
            let meets = |place: &usize| {
                let ([x, from], [to_x, to]) = (line[*place], next(*place));
                x == to_x && x == cut[0] && from > cut[1] && to <= cut[1]
            };
            let place = (0..line.len())
                .find(meets)
                .expect("a cut ends at a line that leads upwards");
            let back = (next(place) != cut).then_some(cut);
            let way: Vec<Corner> = [cut]
                .into_iter()
                .chain(hole.iter().copied())
                .chain([hole[0]])
                .chain(back)
                .collect();
            line.splice(place + 1..place + 1, way);
        }
        line
    }
}

/// A closed line along the edges of pixels, with the region at its right.
struct Ring {
    /// The corners, from the one that is furthest to the left, and of these the uppermost.
    corners: Vec<Corner>,
    is_hole: bool,
}

/// The outlines of one class within its bounding box. Positions count from the box's corner.
struct Tracer<'a> {
    map: &'a LabelMap,
    class_id: u16,
    /// `[x, y, width, height]` in the map.
    bounding_box: [u32; 4],
    rings: Vec<Ring>,
    /// Whether a ring runs along the upper edge of a pixel, `[height, width]` of the box.
    has_ring_above: Vec<bool>,
    /// The ring along the left edge of a pixel, `[height, width]` of the box; anything for pixels without one.
    ring_at_left: Vec<u32>,
}

/// The directions, each a quarter clockwise from the one before.
const RIGHT: usize = 0;
const DOWN: usize = 1;
const LEFT: usize = 2;
const UP: usize = 3;

impl<'a> Tracer<'a> {
    fn new(map: &'a LabelMap, class_id: u16, bounding_box: [u32; 4]) -> Self {
        let pixels = bounding_box[2] as usize * bounding_box[3] as usize;
        Self {
            map,
            class_id,
            bounding_box,
            rings: Vec::new(),
            has_ring_above: vec![false; pixels],
            ring_at_left: vec![0; pixels],
        }
    }

    fn polygons(mut self) -> Vec<Polygon> {
        let [left, top, width, height] = self.bounding_box;
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let (x, y) = (i64::from(x), i64::from(y));
            if self.is_inside(x, y) && !self.is_inside(x, y - 1) && !self.has_ring_above[self.place(x, y)] {
                self.trace(x, y);
            }
        }
        let mut holes: Vec<usize> = (0..self.rings.len()).filter(|&ring| self.rings[ring].is_hole).collect();
        holes.sort_by_key(|&ring| self.rings[ring].corners[0]);
        let mut owners: Vec<usize> = (0..self.rings.len()).collect();
        let moved = |corner: Corner| [corner[0] + left, corner[1] + top];
        let mut polygons: Vec<Option<Polygon>> = self
            .rings
            .iter()
            .map(|ring| {
                let outline = ring.corners.iter().copied().map(moved).collect();
                (!ring.is_hole).then_some(Polygon {
                    outline,
                    holes: Vec::new(),
                    cuts: Vec::new(),
                })
            })
            .collect();
        for ring in holes {
            let corners = &self.rings[ring].corners;
            let (cut, met) = self.cut(corners[0]);
            // The ring that was met lies further to the left, so its owner is known.
            owners[ring] = owners[met];
            let polygon = polygons[owners[ring]].as_mut().expect("an owner is an outline");
            polygon.holes.push(corners.iter().copied().map(moved).collect());
            polygon.cuts.push(moved(cut));
        }
        polygons.into_iter().flatten().collect()
    }

    /// Follows the ring that runs along the upper edge of a pixel.
    fn trace(&mut self, x: i64, y: i64) {
        let ring = self.rings.len() as u32;
        let (mut at, mut direction) = ((x, y), RIGHT);
        let mut corners = Vec::new();
        let mut twice_area = 0;
        loop {
            let next = match direction {
                RIGHT => {
                    let place = self.place(at.0, at.1);
                    self.has_ring_above[place] = true;
                    twice_area -= 2 * at.1;
                    (at.0 + 1, at.1)
                }
                DOWN => (at.0, at.1 + 1),
                LEFT => {
                    twice_area += 2 * at.1;
                    (at.0 - 1, at.1)
                }
                _ => {
                    let place = self.place(at.0, at.1 - 1);
                    self.ring_at_left[place] = ring;
                    (at.0, at.1 - 1)
                }
            };
            let turned = self.turned(next, direction);
            at = next;
            if turned != direction {
                corners.push([at.0 as u32, at.1 as u32]);
            }
            direction = turned;
            if at == (x, y) && direction == RIGHT {
                break;
            }
        }
        let first = (0..corners.len()).min_by_key(|&place| corners[place]).unwrap_or(0);
        corners.rotate_left(first);
        let is_hole = twice_area < 0;
        self.rings.push(Ring { corners, is_hole });
    }

    /// Returns the direction in which a ring goes on from a corner. It stays with its own region where two touch.
    fn turned(&self, (x, y): (i64, i64), direction: usize) -> usize {
        let [at_right, at_left] = match direction {
            RIGHT => [(x, y), (x, y - 1)],
            DOWN => [(x - 1, y), (x, y)],
            LEFT => [(x - 1, y - 1), (x - 1, y)],
            _ => [(x, y - 1), (x - 1, y - 1)],
        };
        if !self.is_inside(at_right.0, at_right.1) {
            (direction + 1) % 4
        } else if self.is_inside(at_left.0, at_left.1) {
            (direction + UP) % 4
        } else {
            direction
        }
    }

    /// Returns where a cut to the left from a hole's first corner ends, and the ring there.
    fn cut(&self, [x, y]: Corner) -> (Corner, usize) {
        let (mut x, y) = (i64::from(x) - 1, i64::from(y));
        while self.is_inside(x - 1, y) {
            x -= 1;
        }
        let ring = self.ring_at_left[self.place(x, y)];
        ([x as u32, y as u32], ring as usize)
    }

    fn is_inside(&self, x: i64, y: i64) -> bool {
        let [left, top, width, height] = self.bounding_box.map(i64::from);
        let is_in_box = (0..width).contains(&x) && (0..height).contains(&y);
        is_in_box && self.map.labels[((y + top) * i64::from(self.map.width) + x + left) as usize] == self.class_id
    }

    fn place(&self, x: i64, y: i64) -> usize {
        (y * i64::from(self.bounding_box[2]) + x) as usize
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::labelled;
    use super::*;

    /// Returns the polygons of class 1 in a drawing: `#` is class 1, everything else class 0.
    fn polygons(drawing: &[&str]) -> (LabelMap, Vec<Polygon>) {
        let labels: Vec<u16> = drawing.concat().bytes().map(|pixel| u16::from(pixel == b'#')).collect();
        let map = labelled("a.png", drawing[0].len() as u32, &labels, 2)
            .label_map()
            .unwrap();
        let polygons = outlines(&map, 1);
        (map, polygons)
    }

    /// Returns which pixels' centres are inside of closed lines, by the rule of odd crossings.
    fn covered(lines: &[Vec<Corner>], width: u32, height: u32) -> Vec<bool> {
        let crosses = |x: u32, y: u32, from: Corner, to: Corner| {
            let (top, bottom) = (from[1].min(to[1]), from[1].max(to[1]));
            from[0] == to[0] && from[0] <= x && (top..bottom).contains(&y)
        };
        let inside = |x, y| {
            let crossings = lines.iter().flat_map(|line| {
                let ends = line.iter().zip(line.iter().cycle().skip(1));
                ends.filter(move |(from, to)| crosses(x, y, **from, **to))
            });
            crossings.count() % 2 == 1
        };
        (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .map(|(x, y)| inside(x, y))
            .collect()
    }

    #[test]
    fn a_square_with_a_hole_has_two_outlines() {
        let (_, found) = polygons(&["###", "#.#", "###"]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].outline, [[0, 0], [3, 0], [3, 3], [0, 3]]);
        assert_eq!(found[0].holes, [[[1, 1], [1, 2], [2, 2], [2, 1]]]);
        assert_eq!(
            found[0].as_one_line(),
            [
                [0, 0],
                [3, 0],
                [3, 3],
                [0, 3],
                [0, 1],
                [1, 1],
                [1, 2],
                [2, 2],
                [2, 1],
                [1, 1],
                [0, 1]
            ]
        );
    }

    #[test]
    fn pixels_that_share_a_corner_are_two_regions() {
        let (_, found) = polygons(&["#.", ".#"]);
        let outlines: Vec<_> = found.into_iter().map(|polygon| polygon.outline).collect();
        assert_eq!(
            outlines,
            [[[0, 0], [1, 0], [1, 1], [0, 1]], [[1, 1], [2, 1], [2, 2], [1, 2]]]
        );
    }

    /// Drawings with nested and interlocked holes, and noise.
    #[test]
    fn outlines_and_single_lines_cover_exactly_the_class() {
        let drawings: [&[&str]; 4] = [
            &[
                "#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######",
            ],
            &[
                "##########",
                "#.#...##.#",
                "#.#.#.#..#",
                "#.#.#.##.#",
                "#...#....#",
                "##########",
            ],
            &["####", "#..#", "##.#", "#.##", "####"],
            &["..#..", ".#.#.", "#.#.#", ".#.#.", "..#.."],
        ];
        let mut random = 1_u32;
        let mut noise = |width: usize, height: usize, share: u32| -> Vec<String> {
            let mut pixel = || {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if random >> 16 & 0xff < share { '#' } else { '.' }
            };
            (0..height).map(|_| (0..width).map(|_| pixel()).collect()).collect()
        };
        let noisy: Vec<Vec<String>> = [(17, 13, 150), (31, 20, 200), (40, 40, 100), (23, 9, 230)]
            .into_iter()
            .map(|(width, height, share)| noise(width, height, share))
            .collect();
        let noisy: Vec<Vec<&str>> = noisy
            .iter()
            .map(|rows| rows.iter().map(String::as_str).collect())
            .collect();
        for drawing in drawings.into_iter().chain(noisy.iter().map(Vec::as_slice)) {
            let (map, found) = polygons(drawing);
            let expected: Vec<bool> = map.labels.iter().map(|&label| label == 1).collect();
            let rings = found
                .iter()
                .flat_map(|polygon| [&polygon.outline].into_iter().chain(&polygon.holes));
            let rings: Vec<_> = rings.cloned().collect();
            assert_eq!(covered(&rings, map.width, map.height), expected, "{drawing:?}");
            let lines: Vec<_> = found.iter().map(Polygon::as_one_line).collect();
            assert_eq!(covered(&lines, map.width, map.height), expected, "{drawing:?}");
        }
    }
}
