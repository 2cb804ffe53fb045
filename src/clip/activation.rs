//! The activation of MLPs.

/// The non-linearity inside the MLPs. It cannot be read off the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's weights and those marked quickgelu.
    QuickGelu,
    /// The exact GELU: most LAION and DataComp weights.
    Gelu,
}
