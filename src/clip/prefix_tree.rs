//! Prompts laid out as prefix trees, so that a common beginning of prompts is computed once.
//!
//! Owns the decision which positions the text tower computes and which of them see which. The result is plain data. In
//! a causal tower a position depends only on the tokens up to it. Each distinct prefix is therefore one node, which all
//! prompts with this prefix share, and it sees its ancestors and itself. Leaves the computing to the tower.
//!
//! Nodes are stored depth first. Layers that act on each position alone need nothing else: a batch of nodes is one
//! matrix without padding of prompts. For the attention, the nodes are cut into tiles of one size. A tile's keys are
//! the few nodes that its nodes can see: the ancestors of its first node, and the tile itself.

use crate::support::{to_i64, to_usize};

/// Nodes that run at once. They are enough to keep the cores busy and few enough for the MLP's hidden layer to stay in
/// the cache: 8 MB in float32 at width 512.
const BATCH_NODES: usize = 1024;

/// Most nodes of a tile. The attention of a tile compares every two of its nodes and masks most of the results. A
/// larger tile means more of this work, a smaller one repeats more common ancestors.
const TILE_NODES: usize = 32;

/// The nodes of some prompts in an order that the tower can run, filled up to whole tiles.
#[derive(Debug, PartialEq)]
pub(super) struct PrefixBatch {
    /// The token id of each node, `[nodes]`.
    pub(super) ids: Vec<i64>,
    /// The position of each node in its prompts, `[nodes]`; the first token has position 0.
    pub(super) positions: Vec<i64>,
    /// The node at which each prompt ends, in the order in which the prompts were given.
    pub(super) ends: Vec<i64>,
    /// The number of tiles, each of `nodes / tiles` nodes.
    pub(super) tiles: usize,
    /// The nodes that are the keys of each tile, `[tiles, keys]`.
    pub(super) keys: Vec<i64>,
    /// The attention's bias, `[tiles, nodes / tiles, keys]`: 0 where a node sees a key, minus infinity elsewhere.
    pub(super) bias: Vec<f32>,
}

impl PrefixBatch {
    /// Cuts prompts into batches of at most [`BATCH_NODES`] nodes. The prompts must be in lexical order and none may be
    /// empty. A prompt longer than that is a batch of its own. Prompts with a common prefix may fall into two batches;
    /// both batches then hold the prefix.
    pub(super) fn of<'a>(sorted: &'a [&[i64]]) -> impl Iterator<Item = Self> + 'a {
        let mut prompts = sorted.iter().peekable();
        std::iter::from_fn(move || {
            let mut tree = PrefixTree::default();
            while let Some(ids) = prompts.next_if(|ids| tree.has_room(ids)) {
                tree.add(ids);
            }
            (!tree.ends.is_empty()).then(|| tree.into_batch())
        })
    }
}

/// Nodes in depth-first order, which is the order in which prompts added in lexical order create them.
#[derive(Default)]
struct PrefixTree {
    ids: Vec<i64>,
    positions: Vec<i64>,
    parents: Vec<Option<usize>>,
    /// The node at which each prompt ends.
    ends: Vec<i64>,
    /// The nodes of the prompt added last, from its first token on.
    path: Vec<usize>,
}

impl PrefixTree {
    /// Returns how many leading tokens `ids` shares with the prompt added last.
    fn shared(&self, ids: &[i64]) -> usize {
        let same = |&(&node, id): &(&usize, &i64)| self.ids[node] == *id;
        self.path.iter().zip(ids).take_while(same).count()
    }

    fn has_room(&self, ids: &[i64]) -> bool {
        self.ids.is_empty() || self.ids.len() + ids.len() - self.shared(ids) <= BATCH_NODES
    }

    /// Adds a prompt, which must come after all prompts added before in lexical order.
    fn add(&mut self, ids: &[i64]) {
        self.path.truncate(self.shared(ids));
        for (&id, position) in ids.iter().zip(0..).skip(self.path.len()) {
            self.parents.push(self.path.last().copied());
            self.path.push(self.ids.len());
            self.ids.push(id);
            self.positions.push(position);
        }
        let end = self.path.last().expect("a prompt has at least one token");
        self.ends.push(to_i64(*end));
    }

    /// Cuts the nodes into tiles of one size and fills the last tile up with copies of the root.
    fn into_batch(mut self) -> PrefixBatch {
        let tiles = self.ids.len().div_ceil(TILE_NODES);
        let tile_nodes = self.ids.len().div_ceil(tiles);
        let nodes = tiles * tile_nodes;
        self.ids.resize(nodes, self.ids[0]);
        self.positions.resize(nodes, 0);
        self.parents.resize(nodes, None);

        let firsts = (0..nodes).step_by(tile_nodes);
        let longest = firsts.clone().map(|first| self.ancestors(first).count()).max();
        let longest = longest.expect("there is a tile");
        let row = longest + tile_nodes;
        let mut keys = Vec::with_capacity(tiles * row);
        let mut bias = vec![f32::NEG_INFINITY; nodes * row];
        for first in firsts {
            let mut ancestors: Vec<usize> = self.ancestors(first).collect();
            ancestors.reverse();
            // These entries only fill a shorter row up: no node sees them.
            ancestors.resize(longest, 0);
            keys.extend(ancestors.into_iter().chain(first..first + tile_nodes).map(to_i64));
            for node in first..first + tile_nodes {
                for seen in std::iter::once(node).chain(self.ancestors(node)) {
                    // A visible node before the tile is also an ancestor of the tile's first node, because the
                    // descendants of a node follow it without a gap. The tile's ancestors are stored in the order of
                    // their positions.
                    let key = match seen.checked_sub(first) {
                        Some(place) => longest + place,
                        None => to_usize(self.positions[seen]),
                    };
                    bias[node * row + key] = 0.0;
                }
            }
        }
        PrefixBatch {
            ids: self.ids,
            positions: self.positions,
            ends: self.ends,
            tiles,
            keys,
            bias,
        }
    }

    /// Returns the ancestors of a node, from its parent up to the root.
    fn ancestors(&self, node: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.parents[node], |&parent| self.parents[parent])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the tokens that the end of each prompt sees, the end included, in the order of their positions.
    fn seen_by_ends(batch: &PrefixBatch) -> Vec<Vec<i64>> {
        let tile_nodes = batch.ids.len() / batch.tiles;
        let row = batch.keys.len() / batch.tiles;
        let seen_by = |&end: &i64| {
            let keys = &batch.keys[to_usize(end) / tile_nodes * row..][..row];
            let bias = &batch.bias[to_usize(end) * row..][..row];
            let seen = keys.iter().zip(bias).filter(|(_, bias)| **bias == 0.0);
            let mut seen: Vec<(i64, i64)> = seen
                .map(|(&key, _)| (batch.positions[to_usize(key)], batch.ids[to_usize(key)]))
                .collect();
            seen.sort_unstable();
            assert!(seen.iter().map(|(position, _)| *position).eq(0..to_i64(seen.len())));
            seen.into_iter().map(|(_, id)| id).collect()
        };
        batch.ends.iter().map(seen_by).collect()
    }

    #[test]
    fn what_prompts_begin_with_is_there_once() {
        let prompts: [&[i64]; 4] = [&[1, 2, 3, 9], &[1, 2, 4, 9], &[1, 2, 4, 9], &[1, 5, 9]];
        let batch = PrefixBatch::of(&prompts).next().expect("there are prompts");
        assert_eq!(batch.ids, [1, 2, 3, 9, 4, 9, 5, 9]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 2, 3, 1, 2]);
        assert_eq!(batch.ends, [3, 5, 5, 7]);
        assert_eq!(seen_by_ends(&batch), prompts);
    }

    #[test]
    fn a_prompt_that_another_begins_with_ends_inside_it() {
        let prompts: [&[i64]; 3] = [&[1], &[1, 2, 3], &[1, 2, 3, 4, 5]];
        let batch = PrefixBatch::of(&prompts).next().expect("there are prompts");
        assert_eq!(
            (batch.ids.as_slice(), batch.ends.as_slice()),
            (&[1, 2, 3, 4, 5][..], &[0, 2, 4][..])
        );
        assert_eq!(seen_by_ends(&batch), prompts);
    }

    #[test]
    fn every_end_sees_its_prompt_across_tiles_and_batches() {
        // All sequences of two tokens up to length nine behind a common beginning, and long ones that share half of
        // their tokens.
        let mut prompts: Vec<Vec<i64>> = (1..=9)
            .flat_map(|length| (0..1 << length).map(move |bits| (length, bits)))
            .map(|(length, bits)| {
                [1, 1]
                    .into_iter()
                    .chain((0..length).map(|bit| bits >> bit & 1))
                    .collect()
            })
            .collect();
        prompts.extend((0..20).map(|last| (0..76).chain([100 + last]).collect()));
        prompts.extend((0..20).map(|middle| (0..77).map(|place| if place == 38 { middle } else { place }).collect()));
        prompts.sort();
        let prompts: Vec<&[i64]> = prompts.iter().map(Vec::as_slice).collect();

        let batches: Vec<_> = PrefixBatch::of(&prompts).collect();
        assert!(batches.len() > 1);
        assert_eq!(batches.iter().flat_map(seen_by_ends).collect::<Vec<_>>(), prompts);
        for batch in batches {
            let nodes = batch.ids.len();
            assert!(nodes < BATCH_NODES + batch.tiles && nodes / batch.tiles <= TILE_NODES);
            assert_eq!(nodes % batch.tiles, 0);
        }
    }

    #[test]
    fn a_prompt_longer_than_a_batch_is_run_alone() {
        let ids = vec![0; BATCH_NODES + 1];
        let prompts: [&[i64]; 2] = [&ids, &ids[1..]];
        let batches: Vec<_> = PrefixBatch::of(&prompts).map(|batch| batch.ends).collect();
        assert_eq!(batches, [[1024], [1023]]);
    }

    #[test]
    fn no_prompts_have_no_batches() {
        assert_eq!(PrefixBatch::of(&[]).next(), None);
    }
}
