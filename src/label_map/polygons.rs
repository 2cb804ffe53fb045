//! Outlines of the classes of a label map as polygons.
//!
//! The corners are those of pixels, so that a polygon covers exactly the pixels of its region, by the rules of every
//! program that asks for the centre of a pixel, pycocotools among them. Regions are connected by edges: two pixels
//! that share only a corner are two regions.
//!
//! The time grows with the pixels and the corners, whatever the number of classes and of holes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::iter::once;

use super::LabelMap;
use crate::scores::UNLABELLED;

/// A corner of pixels: x and y, counted from the left and from the top.
pub type Corner = [u32; 2];

/// The regions of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassPolygons {
    /// The id of the class.
    pub class_id: u16,
    /// A closed line around each connected region, without its first corner again, from the top to the bottom and from
    /// left to right. It runs clockwise as the image is seen. A line has no holes: a cut leads to each hole and back on
    /// the same way, so that it takes no area.
    pub lines: Vec<Vec<Corner>>,
}

/// The lines have more corners than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyCorners;

/// Returns the polygons of each class that has pixels, lowest id first.
pub fn polygons(map: &LabelMap) -> Vec<ClassPolygons> {
    polygons_within(map, u64::MAX).expect("no map has so many corners")
}

/// Returns the polygons of each class that has pixels, lowest id first. A hole counts with three corners more, for its
/// cut.
///
/// # Errors
/// [`TooManyCorners`] as soon as they have more than `most_corners`.
pub fn polygons_within(map: &LabelMap, most_corners: u64) -> Result<Vec<ClassPolygons>, TooManyCorners> {
    Ok(Tracer::new(map, most_corners).traced()?.polygons())
}

/// A closed line along the edges of pixels, with the region at its right.
struct Ring {
    class_id: u16,
    /// The corners, from the one that is furthest to the left, and of these the uppermost.
    corners: Vec<Corner>,
    is_hole: bool,
}

/// A hole of a region.
struct Hole {
    /// The place of the region's outline among all rings.
    owner: usize,
    /// The outline of the hole.
    corners: Vec<Corner>,
    /// Where a cut to the left from the hole's first corner meets another ring of the region.
    cut: Corner,
}

/// The outlines of all classes of a map.
struct Tracer<'a> {
    map: &'a LabelMap,
    rings: Vec<Ring>,
    /// The corners that may still be found.
    corners_left: u64,
    /// Whether a ring runs along the upper edge of a pixel, `[height, width]`.
    has_ring_above: Vec<bool>,
    /// The ring along the left edge of a pixel, `[height, width]`; anything for pixels without one.
    ring_at_left: Vec<u32>,
}

/// The directions, each a quarter clockwise from the one before.
const RIGHT: usize = 0;
const DOWN: usize = 1;
const LEFT: usize = 2;
const UP: usize = 3;

/// Corners that a cut adds to those of its hole at most: its end, twice, and the hole's first corner again.
const CUT_CORNERS: u64 = 3;

impl<'a> Tracer<'a> {
    fn new(map: &'a LabelMap, most_corners: u64) -> Self {
        Self {
            map,
            rings: Vec::new(),
            corners_left: most_corners,
            has_ring_above: vec![false; map.labels.len()],
            ring_at_left: vec![0; map.labels.len()],
        }
    }

    /// Finds all rings.
    fn traced(mut self) -> Result<Self, TooManyCorners> {
        let width = self.map.width as usize;
        for (place, &label) in self.map.labels.iter().enumerate() {
            let is_below_own = place >= width && self.map.labels[place - width] == label;
            if label != UNLABELLED && !is_below_own && !self.has_ring_above[place] {
                self.trace(label, ((place % width) as i64, (place / width) as i64))?;
            }
        }
        Ok(self)
    }

    /// Follows the ring that runs along the upper edge of a pixel.
    fn trace(&mut self, class_id: u16, start: (i64, i64)) -> Result<(), TooManyCorners> {
        let ring = self.rings.len() as u32;
        let (mut at, mut direction) = (start, RIGHT);
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
            let turned = self.turned(class_id, next, direction);
            at = next;
            if turned != direction {
                self.count(1)?;
                corners.push([at.0 as u32, at.1 as u32]);
            }
            direction = turned;
            if at == start && direction == RIGHT {
                break;
            }
        }
        let first = (0..corners.len()).min_by_key(|&place| corners[place]).unwrap_or(0);
        corners.rotate_left(first);
        let is_hole = twice_area < 0;
        if is_hole {
            self.count(CUT_CORNERS)?;
        }
        self.rings.push(Ring {
            class_id,
            corners,
            is_hole,
        });
        Ok(())
    }

    fn count(&mut self, corners: u64) -> Result<(), TooManyCorners> {
        self.corners_left = self.corners_left.checked_sub(corners).ok_or(TooManyCorners)?;
        Ok(())
    }

    /// Returns the direction in which a ring goes on from a corner. It stays with its own region where two touch.
    fn turned(&self, class_id: u16, (x, y): (i64, i64), direction: usize) -> usize {
        let [at_right, at_left] = match direction {
            RIGHT => [(x, y), (x, y - 1)],
            DOWN => [(x - 1, y), (x, y)],
            LEFT => [(x - 1, y - 1), (x - 1, y)],
            _ => [(x, y - 1), (x - 1, y - 1)],
        };
        if !self.is_inside(class_id, at_right) {
            (direction + 1) % 4
        } else if self.is_inside(class_id, at_left) {
            (direction + UP) % 4
        } else {
            direction
        }
    }

    /// Joins the rings of each region to one line.
    fn polygons(mut self) -> Vec<ClassPolygons> {
        let holes = self.take_holes();
        let mut holes = holes.as_slice();
        let mut classes: BTreeMap<u16, Vec<Vec<Corner>>> = BTreeMap::new();
        for (place, ring) in self.rings.into_iter().enumerate().filter(|(_, ring)| !ring.is_hole) {
            let (own, others) = holes.split_at(holes.partition_point(|hole| hole.owner <= place));
            holes = others;
            classes
                .entry(ring.class_id)
                .or_default()
                .push(one_line(ring.corners, own));
        }
        let class = |(class_id, lines)| ClassPolygons { class_id, lines };
        classes.into_iter().map(class).collect()
    }

    /// Takes the holes out of the rings, by their owners, those of one owner from left to right.
    fn take_holes(&mut self) -> Vec<Hole> {
        let mut rings: Vec<usize> = (0..self.rings.len()).filter(|&ring| self.rings[ring].is_hole).collect();
        rings.sort_unstable_by_key(|&ring| self.rings[ring].corners[0]);
        let mut owners: Vec<usize> = (0..self.rings.len()).collect();
        let mut holes = Vec::with_capacity(rings.len());
        for ring in rings {
            let (cut, met) = self.cut(self.rings[ring].class_id, self.rings[ring].corners[0]);
            // The ring that was met lies further to the left, so its owner is known.
            owners[ring] = owners[met];
            holes.push(Hole {
                owner: owners[met],
                corners: std::mem::take(&mut self.rings[ring].corners),
                cut,
            });
        }
        holes.sort_by_key(|hole| hole.owner);
        holes
    }

    /// Returns where a cut to the left from a hole's first corner ends, and the ring there.
    fn cut(&self, class_id: u16, [x, y]: Corner) -> (Corner, usize) {
        let (mut x, y) = (i64::from(x) - 1, i64::from(y));
        while self.is_inside(class_id, (x - 1, y)) {
            x -= 1;
        }
        let ring = self.ring_at_left[self.place(x, y)];
        ([x as u32, y as u32], ring as usize)
    }

    fn is_inside(&self, class_id: u16, (x, y): (i64, i64)) -> bool {
        let is_in_map = (0..i64::from(self.map.width)).contains(&x) && (0..i64::from(self.map.height)).contains(&y);
        is_in_map && self.map.labels[self.place(x, y)] == class_id
    }

    fn place(&self, x: i64, y: i64) -> usize {
        (y * i64::from(self.map.width) + x) as usize
    }
}

/// A cut as seen from the ring at which it begins.
struct Cut {
    /// The ring: 0 for the outline, then the holes in their order.
    ring: usize,
    /// The corner of the ring behind which the cut begins, at an edge that leads upwards.
    place: usize,
    /// Where it begins.
    at: Corner,
    /// The ring to which it leads.
    hole: usize,
}

/// A ring that is being walked along.
struct Walk {
    ring: usize,
    /// The number of its corners that are passed.
    passed: usize,
    /// The next of all cuts.
    next_cut: usize,
}

/// Returns a region as one closed line.
fn one_line(outline: Vec<Corner>, holes: &[Hole]) -> Vec<Corner> {
    if holes.is_empty() {
        return outline;
    }
    let rings: Vec<&[Corner]> = once(&*outline).chain(holes.iter().map(|hole| &*hole.corners)).collect();
    let cuts = cuts(&rings, holes);
    let walk = |ring| Walk {
        ring,
        passed: 0,
        next_cut: cuts.partition_point(|cut| cut.ring < ring),
    };
    let corners: usize = rings.iter().map(|ring| ring.len()).sum();
    let mut line = Vec::with_capacity(corners + CUT_CORNERS as usize * holes.len());
    // The rings from the outline to the hole at hand. Holes may hang on holes without end: too many for a recursion.
    let mut walks = vec![walk(0)];
    while let Some(Walk { ring, passed, next_cut }) = walks.last_mut() {
        if let Some(cut) = cuts.get(*next_cut)
            && (cut.ring, cut.place + 1) == (*ring, *passed)
        {
            *next_cut += 1;
            line.push(cut.at);
            walks.push(walk(cut.hole));
        } else if let Some(&corner) = rings[*ring].get(*passed) {
            *passed += 1;
            line.push(corner);
        } else {
            let hole = rings[*ring];
            walks.pop();
            if let Some(Walk { ring, passed, next_cut }) = walks.last() {
                let (around, at) = (rings[*ring], cuts[next_cut - 1].at);
                line.push(hole[0]);
                line.extend((around[passed % around.len()] != at).then_some(at));
            }
        }
    }
    line
}

/// Returns the cuts of a region in the order in which they are met along its rings.
fn cuts(rings: &[&[Corner]], holes: &[Hole]) -> Vec<Cut> {
    // The edges that lead upwards: the corner at the upper end, the ring, and the place of the lower end.
    let mut edges: Vec<(Corner, usize, usize)> = Vec::new();
    for (ring, corners) in rings.iter().enumerate() {
        let ends = corners.iter().zip(corners.iter().cycle().skip(1));
        let upwards = ends
            .enumerate()
            .filter(|(_, (from, to))| from[0] == to[0] && from[1] > to[1]);
        edges.extend(upwards.map(|(place, (_, to))| (*to, ring, place)));
    }
    edges.sort_unstable();
    let cut = |(hole, &Hole { cut: at, .. }): (usize, &Hole)| {
        // No two edges overlap, so the one that begins the closest above the cut reaches it.
        let above = edges.partition_point(|(end, ..)| *end <= at);
        let (_, ring, place) = edges[above.checked_sub(1).expect("a cut ends at an edge that leads upwards")];
        Cut {
            ring,
            place,
            at,
            hole: hole + 1,
        }
    };
    let mut cuts: Vec<Cut> = holes.iter().enumerate().map(cut).collect();
    cuts.sort_unstable_by_key(|cut| (cut.ring, cut.place, Reverse(cut.at[1])));
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a map with two classes from a drawing: `#` is class 1, a space no class, and everything else class 0.
    fn map(drawing: &[impl AsRef<str>]) -> LabelMap {
        let pixels = drawing.iter().flat_map(|row| row.as_ref().bytes());
        let labels: Vec<u16> = pixels
            .map(|pixel| match pixel {
                b'#' => 1,
                b' ' => UNLABELLED,
                _ => 0,
            })
            .collect();
        LabelMap {
            width: drawing[0].as_ref().len() as u32,
            height: drawing.len() as u32,
            labels,
            confidence: None,
            classes: Vec::new(),
        }
    }

    /// Returns which pixels' centres are inside of closed lines, by the rule of odd crossings.
    fn covered(lines: &[Vec<Corner>], map: &LabelMap) -> Vec<bool> {
        let width = map.width as usize;
        let mut is_crossed = vec![false; map.labels.len()];
        for line in lines {
            for (from, to) in line.iter().zip(line.iter().cycle().skip(1)) {
                assert!(from != to && (from[0] == to[0] || from[1] == to[1]), "{from:?} {to:?}");
                for y in from[1].min(to[1])..from[1].max(to[1]) {
                    if (from[0] as usize) < width {
                        is_crossed[y as usize * width + from[0] as usize] ^= true;
                    }
                }
            }
        }
        let rows = is_crossed.chunks(width);
        rows.flat_map(|row| {
            row.iter().scan(false, |inside, crossed| {
                *inside ^= crossed;
                Some(*inside)
            })
        })
        .collect()
    }

    /// Checks that the lines of each class cover exactly its pixels, and that they are counted.
    #[track_caller]
    fn check(map: &LabelMap) {
        let found = polygons(map);
        let ids: Vec<u16> = found.iter().map(|class| class.class_id).collect();
        let mut expected = map.labels.clone();
        expected.sort_unstable();
        expected.dedup();
        expected.retain(|&label| label != UNLABELLED);
        assert_eq!(ids, expected);
        for class in &found {
            let pixels: Vec<bool> = map.labels.iter().map(|&label| label == class.class_id).collect();
            assert_eq!(covered(&class.lines, map), pixels, "class {}", class.class_id);
        }
        let corners: usize = found.iter().flat_map(|class| &class.lines).map(Vec::len).sum();
        assert_eq!(polygons_within(map, corners as u64 - 1), Err(TooManyCorners));
        // What requests are weighed by.
        assert!(polygons_within(map, 7 * map.labels.len() as u64).is_ok());
    }

    #[test]
    fn a_cut_leads_to_a_hole() {
        let map = map(&["###", "#.#", "###"]);
        let around = [[0, 0], [3, 0], [3, 3], [0, 3], [0, 1]];
        let hole = [[1, 1], [1, 2], [2, 2], [2, 1], [1, 1], [0, 1]];
        let inside = [[1, 1], [2, 1], [2, 2], [1, 2]];
        let class = |class_id, line: Vec<Corner>| ClassPolygons {
            class_id,
            lines: vec![line],
        };
        let expected = [class(0, inside.to_vec()), class(1, [&around[..], &hole].concat())];
        assert_eq!(polygons(&map), expected);
        assert_eq!(polygons_within(&map, 15), Ok(expected.to_vec()));
        assert_eq!(polygons_within(&map, 14), Err(TooManyCorners));
    }

    #[test]
    fn pixels_that_share_a_corner_are_two_regions() {
        let found = polygons(&map(&["# ", " #"]));
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].lines,
            [[[0, 0], [1, 0], [1, 1], [0, 1]], [[1, 1], [2, 1], [2, 2], [1, 2]]]
        );
    }

    #[test]
    fn a_map_without_a_class_has_no_polygons() {
        assert_eq!(polygons_within(&map(&["  ", "  "]), 0), Ok(Vec::new()));
    }

    /// Drawings with nested and interlocked holes, and noise.
    #[test]
    fn lines_cover_exactly_their_class() {
        let drawings: [&[&str]; 4] = [
            &[
                "#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######",
            ],
            &[
                "##########",
                "#.#...##.#",
                "#.#.#.#..#",
                "#.#.#.##.#",
                "#...#  ..#",
                "##########",
            ],
            &["####", "#..#", "##.#", "#.##", "####"],
            &["..#..", ".# #.", "# # #", ".# #.", "..#.."],
        ];
        drawings.into_iter().for_each(|drawing| check(&map(drawing)));
        let mut random = 1_u32;
        let mut noise = |width: usize, height: usize, share: u32| -> Vec<String> {
            let mut pixel = || {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                match random >> 16 & 0xff {
                    number if number < share => '#',
                    number if number % 5 == 0 => ' ',
                    _ => '.',
                }
            };
            (0..height).map(|_| (0..width).map(|_| pixel()).collect()).collect()
        };
        for (width, height, share) in [(17, 13, 150), (31, 20, 200), (40, 40, 100), (23, 9, 230)] {
            check(&map(&noise(width, height, share)));
        }
    }

    /// A sieve of 90,000 holes takes as long as its pixels, which a search along the line for each hole would not.
    #[test]
    fn many_holes_hang_on_each_other_in_little_time() {
        let rows = ["#".repeat(601), ["#"; 301].join(".")];
        let drawing: Vec<&str> = (0..601).map(|y| &*rows[y % 2]).collect();
        let map = map(&drawing);
        check(&map);
        let found = polygons(&map);
        assert_eq!((found[0].lines.len(), found[1].lines.len()), (90_000, 1));
    }
}
