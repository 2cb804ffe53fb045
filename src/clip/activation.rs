//! The activation function of the MLPs.

/// The non-linearity inside the MLPs. The weights do not tell which one a model needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`, for OpenAI's weights and those marked quickgelu.
    QuickGelu,
    /// The exact GELU, for most LAION and DataComp weights.
    Gelu,
}
