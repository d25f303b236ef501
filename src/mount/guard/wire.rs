//! Reading XDR (RFC 4506) from a slice, without copying and without trusting a length.
//!
//! The types are `nfs3_types`'s. Its decoder for opaque data allocates what the length says before looking whether the
//! data is there, up to 4 GiB, so variable-length fields are stepped over here; everything of fixed size is decoded by
//! the crate.

use nfs3_types::xdr_codec::Unpack;

/// The bytes are not what the protocol says they must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed RPC message: no valid {what} at byte {at}")]
pub(super) struct Malformed {
    /// What was expected.
    pub(super) what: &'static str,
    /// Where, counted from the start of the message.
    pub(super) at: usize,
}

/// A position in a message.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Bytes read so far, from the start of the message.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The rest of the message.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Decodes a value. Only for types whose size does not depend on the message (see the module's text).
    pub(super) fn value<T: Unpack>(&mut self, what: &'static str) -> Result<T, Malformed> {
        let mut rest = self.rest();
        let (value, size) = T::unpack(&mut rest).map_err(|_| Malformed { what, at: self.at })?;
        self.at += size;
        Ok(value)
    }

    /// Steps over variable-length opaque data of at most `max` bytes and gives it out.
    pub(super) fn opaque(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let at = self.at;
        let len = self.value::<u32>(what)? as usize;
        let padded = len
            .checked_next_multiple_of(4)
            .filter(|_| len <= max)
            .ok_or(Malformed { what, at })?;
        let data = self.rest().get(..padded).ok_or(Malformed { what, at })?;
        self.at += padded;
        Ok(&data[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaque_data_is_bounded_by_the_message_and_by_its_limit() {
        let message = [0, 0, 0, 3, b'a', b'b', b'c', 0, 9];
        assert_eq!(Cursor::new(&message, 0).opaque(3, "name"), Ok(&b"abc"[..]));
        assert_eq!(
            Cursor::new(&message, 0).opaque(2, "name"),
            Err(Malformed { what: "name", at: 0 })
        );
        assert!(
            Cursor::new(&message[..7], 0).opaque(3, "name").is_err(),
            "padding is missing"
        );
        assert!(Cursor::new(&[0xff; 4], 0).opaque(usize::MAX, "name").is_err());
        assert!(Cursor::new(&message, 100).value::<u32>("word").is_err());
    }
}
