//! CLIP's ModifiedResNet (Radford et al. 2021, section 2.4): three stem convolutions, bottlenecks whose stride is an
//! average pool, and an attention pool at the end.
//!
//! Owns the tower as published. Maps are `[batch, channels, height, width]`, and the channels of one pixel lie side by
//! side in memory ("channels last"). A 1x1 convolution is therefore a linear layer over pixels and as fast as one, and
//! no convolution reorders its input. The crate can use the last map and the parts of the attention pool, so that
//! `dense` can replace the ending. This module knows only the published ending.

use tch::{Device, Kind, Tensor};

use super::checkpoint::{CheckpointError, Weights};
use super::linear::Linear;
use super::native::Pointwise;
use super::positions::{PositionResampling, PositionalEmbedding};
use super::transformer::multi_head_attention;

/// Pixels of the image per cell of the map before layer 4. The stem halves the size twice; layers 2 and 3 halve it once
/// each.
const PIXELS_BEFORE_LAST: i64 = 16;

/// Output channels of a bottleneck per inner channel.
pub(super) const EXPANSION: i64 = 4;

/// Every batch normalisation adds this to the variance.
const BATCH_NORM_EPSILON: f64 = 1e-5;

/// The visual tower of CLIP's RN models. Its fields are named after the checkpoint's keys. Each convolution includes
/// the batch normalisation that follows it.
#[derive(Debug)]
pub struct ModifiedResNet {
    conv1: Convolution,
    conv2: Convolution,
    conv3: Convolution,
    /// The bottlenecks of `layer1` to `layer4`.
    layers: [Vec<Bottleneck>; 4],
    /// The stride of layer 4: 2 as published; 1 leaves maps of twice the height and width.
    last_stride: i64,
    pub(crate) attnpool: AttentionPool,
}

impl ModifiedResNet {
    /// Takes the tower's tensors, `visual.…`, from `weights`. Every size but the heads' width comes from their shapes.
    /// `last_stride` is the stride of layer 4, 1 or 2. The tensors are the same for both.
    ///
    /// # Errors
    /// Fails when a tensor is missing or does not fit the others.
    pub fn load(weights: &mut Weights, head_width: i64, last_stride: i64) -> Result<Self, CheckpointError> {
        let width = weights.size("visual.conv3.weight", 0);
        let half = width / 2;
        let conv1 = Convolution::load(weights, "visual.conv1", "visual.bn1", [half, 3, 3, 3])?;
        let conv2 = Convolution::load(weights, "visual.conv2", "visual.bn2", [half, half, 3, 3])?;
        let conv3 = Convolution::load(weights, "visual.conv3", "visual.bn3", [width, half, 3, 3])?;
        let mut channels = width;
        let mut layer = |index: i64, stride: i64| {
            let name = format!("visual.layer{index}");
            let inner = width << (index - 1);
            let blocks = count_blocks(weights, &name);
            (0..blocks.max(1)) // A checkpoint without blocks fails with the missing tensor's name.
                .map(|block| {
                    let stride = if block == 0 { stride } else { 1 };
                    let bottleneck = Bottleneck::load(weights, &format!("{name}.{block}"), channels, inner, stride);
                    channels = inner * EXPANSION;
                    bottleneck
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let layers = [layer(1, 1)?, layer(2, 2)?, layer(3, 2)?, layer(4, last_stride)?];
        let attnpool = AttentionPool::load(weights, "visual.attnpool", channels, head_width)?;
        Ok(Self {
            conv1,
            conv2,
            conv3,
            layers,
            last_stride,
            attnpool,
        })
    }

    /// Encodes images `[batch, 3, height, width]` as CLIP's image features `[batch, embedding]`, which are not of unit
    /// length. `height` and `width` must be whole multiples of [`ModifiedResNet::patch_pixels`].
    pub fn encode_image(&self, image: &Tensor) -> Tensor {
        self.attnpool.pool(&self.last_map(image))
    }

    /// Computes the map of the last stage: `[batch, 3, height, width]` to `[batch, channels, height / p, width / p]`,
    /// where p is [`ModifiedResNet::patch_pixels`].
    fn last_map(&self, image: &Tensor) -> Tensor {
        self.last_map_unless(image, &|| false).expect("nothing stops it")
    }

    /// Does the same as [`ModifiedResNet::last_map`], unless `stop` returns true before one of the blocks.
    pub(crate) fn last_map_unless(&self, image: &Tensor, stop: &dyn Fn() -> bool) -> Option<Tensor> {
        if stop() {
            return None;
        }
        let x = self.conv1.forward(&channels_last(image), 2).relu_();
        let x = self.conv2.forward(&x, 1).relu_();
        let x = self.conv3.forward(&x, 1).relu_();
        let stem = average_pool(&x, 2);
        let mut blocks = self.layers.iter().flatten();
        blocks.try_fold(stem, |x, block| (!stop()).then(|| block.forward(&x)))
    }

    /// Returns how many pixels of the image, along each side, make one cell of the last map.
    pub fn patch_pixels(&self) -> i64 {
        PIXELS_BEFORE_LAST * self.last_stride
    }

    /// Returns the side in pixels of the square images that the model was trained on.
    pub fn training_pixels(&self) -> i64 {
        self.attnpool.positional_embedding.side() * self.patch_pixels()
    }

    /// Returns the length of the image feature.
    pub fn embedding_dimension(&self) -> i64 {
        self.attnpool.c_proj.outputs()
    }

    /// Returns the element type in which the tower computes.
    pub(crate) fn kind(&self) -> Kind {
        self.attnpool.c_proj.kind()
    }

    /// Returns the device that holds the tower's weights.
    pub(crate) fn device(&self) -> Device {
        self.attnpool.c_proj.device()
    }

    /// Returns a name such as "RN50" for published sizes, otherwise the sizes themselves. A last stride of 1 is said.
    pub fn architecture(&self) -> String {
        let blocks = self.layers.each_ref().map(Vec::len);
        let width = self.conv3.weight.size()[0];
        let name = match (blocks, width) {
            ([3, 4, 6, 3], 64) => "RN50".to_owned(),
            ([3, 4, 23, 3], 64) => "RN101".to_owned(),
            ([4, 6, 10, 6], 80) => "RN50x4".to_owned(),
            ([6, 8, 18, 8], 96) => "RN50x16".to_owned(),
            ([3, 15, 36, 10], 128) => "RN50x64".to_owned(),
            ([a, b, c, d], width) => format!("ModifiedResNet ({a}, {b}, {c}, {d}) width {width}"),
        };
        match self.last_stride {
            1 => format!("{name}, last stride 1"),
            _ => name,
        }
    }
}

fn count_blocks(weights: &Weights, layer: &str) -> usize {
    (0..)
        .take_while(|block: &usize| weights.shape(&format!("{layer}.{block}.conv1.weight")).is_some())
        .count()
}

/// The attention pool at the end of CLIP's ResNets. The mean of the map is the only query; the mean and all positions
/// are keys and values.
#[derive(Debug)]
pub(crate) struct AttentionPool {
    positional_embedding: PositionalEmbedding,
    q_proj: Linear,
    pub(crate) k_proj: Linear,
    pub(crate) v_proj: Linear,
    /// Maps `[channels]` to `[embedding]`.
    pub(crate) c_proj: Linear,
    heads: i64,
}

impl AttentionPool {
    fn load(weights: &mut Weights, name: &str, channels: i64, head_width: i64) -> Result<Self, CheckpointError> {
        if channels % head_width != 0 {
            return Err(CheckpointError::UnevenHeads {
                width: channels,
                head_width,
            });
        }
        let embedding = weights.size(&format!("{name}.c_proj.weight"), 0);
        Ok(Self {
            positional_embedding: PositionalEmbedding::load(
                weights,
                &format!("{name}.positional_embedding"),
                channels,
            )?,
            q_proj: Linear::load(weights, &format!("{name}.q_proj"), channels, channels)?,
            k_proj: Linear::load(weights, &format!("{name}.k_proj"), channels, channels)?,
            v_proj: Linear::load(weights, &format!("{name}.v_proj"), channels, channels)?,
            c_proj: Linear::load(weights, &format!("{name}.c_proj"), embedding, channels)?,
            heads: channels / head_width,
        })
    }

    /// Pools a map into one feature: `[batch, channels, height, width]` to `[batch, embedding]`.
    pub(crate) fn pool(&self, map: &Tensor) -> Tensor {
        let tokens = self.tokens(map);
        self.attend(&tokens.narrow(1, 0, 1), &tokens).squeeze_dim(1) // [batch, 1, embedding] -> [batch, embedding]
    }

    /// Turns a map into tokens: `[batch, channels, height, width]` to `[batch, 1 + cells, channels]`. The mean comes
    /// first, then every cell, and each has its positional embedding added.
    pub(crate) fn tokens(&self, map: &Tensor) -> Tensor {
        let (_, _, height, width) = map.size4().expect("a map is [batch, channels, height, width]");
        let cells = map.flatten(2, 3).transpose(1, 2); // [batch, channels, height, width] -> [batch, cells, channels]
        Self::with_mean(&cells) + self.positional_embedding.at(height, width, PositionResampling::Plain)
    }

    /// Puts the mean of the cells before them: `[batch, cells, channels]` to `[batch, 1 + cells, channels]`.
    pub(crate) fn with_mean(cells: &Tensor) -> Tensor {
        Tensor::cat(&[&cells.mean_dim(1, true, None), cells], 1)
    }

    /// Attends from the queries `asking`, `[batch, n, channels]`, to all `tokens`; the result is
    /// `[batch, n, embedding]`.
    pub(crate) fn attend(&self, asking: &Tensor, tokens: &Tensor) -> Tensor {
        let [query, key, value] = [
            self.q_proj.forward(asking),
            self.k_proj.forward(tokens),
            self.v_proj.forward(tokens),
        ];
        self.c_proj
            .forward(&multi_head_attention(&query, &key, &value, self.heads))
    }
}

/// Three convolutions, 1x1, 3x3 and 1x1, with a shortcut. The stride is an average pool, both after the 3x3 convolution
/// and in the shortcut.
#[derive(Debug)]
pub(super) struct Bottleneck {
    conv1: PixelConvolution,
    conv2: Convolution,
    conv3: PixelConvolution,
    /// The convolution of the shortcut, present where the bottleneck changes the shape.
    downsample: Option<PixelConvolution>,
    stride: i64,
}

impl Bottleneck {
    pub(super) fn load(
        weights: &mut Weights,
        name: &str,
        channels: i64,
        inner: i64,
        stride: i64,
    ) -> Result<Self, CheckpointError> {
        let outer = inner * EXPANSION;
        let pixel = |weights: &mut Weights, convolution: &str, normalisation: &str, shape| {
            let (convolution, normalisation) = (format!("{name}.{convolution}"), format!("{name}.{normalisation}"));
            PixelConvolution::load(weights, &convolution, &normalisation, shape)
        };
        Ok(Self {
            conv1: pixel(weights, "conv1", "bn1", [inner, channels])?,
            conv2: Convolution::load(
                weights,
                &format!("{name}.conv2"),
                &format!("{name}.bn2"),
                [inner, inner, 3, 3],
            )?,
            conv3: pixel(weights, "conv3", "bn3", [outer, inner])?,
            downsample: (stride > 1 || channels != outer)
                .then(|| pixel(weights, "downsample.0", "downsample.1", [outer, channels]))
                .transpose()?,
            stride,
        })
    }

    /// Maps `[batch, channels, height, width]` to `[batch, 4 inner, height / stride, width / stride]`.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let y = self.conv1.forward_then(x, Pointwise::Relu);
        let y = self.conv2.forward(&y, 1).relu_();
        let y = average_pool(&y, self.stride);
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward_then(&average_pool(x, self.stride), Pointwise::Identity),
            None => x.shallow_clone(),
        };
        self.conv3.forward_added(&y, &shortcut).relu_()
    }
}

/// A convolution without bias, with the batch normalisation after it folded in.
#[derive(Debug)]
struct Convolution {
    /// The kernels, `[outputs, inputs, kernel, kernel]`.
    weight: Tensor,
    /// The bias that the normalisation leaves, `[outputs]`.
    bias: Tensor,
}

impl Convolution {
    /// Takes `{convolution}.weight` of the given shape and the four vectors of `{normalisation}`. With running mean m
    /// and variance v, `g (W x - m) / sqrt(v + eps) + b` is a convolution by `W g / sqrt(v + eps)` with a bias.
    fn load(
        weights: &mut Weights,
        convolution: &str,
        normalisation: &str,
        shape: [i64; 4],
    ) -> Result<Self, CheckpointError> {
        let kind = weights.kind();
        let weight = weights.take_as(&format!("{convolution}.weight"), &shape, Kind::Float)?;
        let mut vector = |name: &str| weights.take_as(&format!("{normalisation}.{name}"), &shape[..1], Kind::Float);
        let (scale, shift) = (vector("weight")?, vector("bias")?);
        let (mean, variance) = (vector("running_mean")?, vector("running_var")?);
        let factor = scale / (variance + BATCH_NORM_EPSILON).sqrt();
        let weight = weight * factor.view([-1, 1, 1, 1]); // [outputs] -> [outputs, 1, 1, 1]
        Ok(Self {
            weight: channels_last(&weight.to_kind(kind)),
            bias: (shift - mean * factor).to_kind(kind),
        })
    }

    /// Convolves a map. Stride 1 keeps its height and width; stride 2 halves them.
    fn forward(&self, x: &Tensor, stride: i64) -> Tensor {
        let padding = self.weight.size()[2] / 2;
        x.conv2d(&self.weight, Some(&self.bias), stride, padding, 1, 1)
    }
}

/// A 1x1 convolution with the batch normalisation after it, computed as a linear layer over the pixels.
#[derive(Debug)]
struct PixelConvolution(Linear);

impl PixelConvolution {
    /// Takes the tensors as [`Convolution::load`] does, with the shape `[outputs, inputs, 1, 1]`.
    fn load(
        weights: &mut Weights,
        convolution: &str,
        normalisation: &str,
        [outputs, inputs]: [i64; 2],
    ) -> Result<Self, CheckpointError> {
        let Convolution { weight, bias } =
            Convolution::load(weights, convolution, normalisation, [outputs, inputs, 1, 1])?;
        Ok(Self(Linear::new(weight.view([outputs, inputs]), Some(bias)))) // [outputs, inputs, 1, 1] -> [outputs, inputs]
    }

    /// Computes the layer and then `then`: `[batch, inputs, height, width]` to `[batch, outputs, height, width]`.
    fn forward_then(&self, x: &Tensor, then: Pointwise) -> Tensor {
        from_pixels(&self.0.forward_then(&pixels(x), then))
    }

    /// Computes the layer and adds `other`, which has the shape of the result.
    fn forward_added(&self, x: &Tensor, other: &Tensor) -> Tensor {
        from_pixels(&self.0.forward_added(&pixels(x), &pixels(other)))
    }
}

/// Moves the channels to the end: `[batch, channels, height, width]` to `[batch, height, width, channels]`.
fn pixels(map: &Tensor) -> Tensor {
    map.permute([0, 2, 3, 1])
}

/// Moves the channels back: `[batch, height, width, channels]` to `[batch, channels, height, width]`.
fn from_pixels(pixels: &Tensor) -> Tensor {
    pixels.permute([0, 3, 1, 2])
}

/// Copies a tensor of four dimensions so that the values of its second dimension lie side by side in memory.
fn channels_last(x: &Tensor) -> Tensor {
    from_pixels(&pixels(x).contiguous())
}

/// Averages squares of `size` x `size` cells that do not overlap.
fn average_pool(x: &Tensor, size: i64) -> Tensor {
    if size == 1 {
        x.shallow_clone()
    } else {
        x.avg_pool2d([size, size], [size, size], 0, false, true, None)
    }
}
