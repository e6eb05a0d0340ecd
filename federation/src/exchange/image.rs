//! What is kept on disk of all origins.

/// What is kept on disk of all origins.
#[derive(Clone, Debug, Default)]
pub struct Image {}

impl Image {
    /// As bytes. The driver puts a checksum around them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    /// From bytes.
    ///
    /// # Errors
    /// If they are not those of an image.
    pub fn decode(_bytes: &bytes::Bytes) -> Result<Self, BadImage> {
        Ok(Self::default())
    }
}

/// Why bytes are not an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an image of the exchange: {0}")]
pub struct BadImage(pub &'static str);
