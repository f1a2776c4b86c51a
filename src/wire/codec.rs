//! How messages are written and read: tonic's codec for prost, with buffers as small as the messages of CSI.
//!
//! Each call has one buffer for its request and one for its answer, by default of 8 KiB each. For a block that large malloc
//! first puts together all the small ones that are free, and the next call cuts them up again; yet a request is a few paths
//! and an answer mostly nothing. A buffer grows where that is too little.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// The size in bytes that a buffer has at first. malloc takes what is below 1 KiB from its lists.
const BUFFER: usize = 768;
/// How many bytes of a stream of messages are collected before they are sent: tonic's own number.
const YIELD: usize = 32 * 1024;

/// Writes `T` and reads `U`.
#[derive(Debug, Clone)]
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, YIELD))
    }
}
