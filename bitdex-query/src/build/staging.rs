//! Rows of a load on their way into files.

use bitdex_proto::{ops::Op, schema::SourceId};
use bytes::Bytes;

/// What came since the last `Freeze`, in order. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Staging {}

impl Staging {
    /// Rows as they came (COPY's binary format), checked already.
    pub(crate) fn push_rows(&mut self, _source: SourceId, _copy_rows: Bytes) {
        todo!("build")
    }

    /// An op on a source that is being loaded, from another session.
    pub(crate) fn push_op(&mut self, _op: Op) {
        todo!("build")
    }

    pub(crate) fn is_empty(&self) -> bool {
        todo!("build")
    }

    pub(crate) fn bytes(&self) -> u64 {
        todo!("build")
    }

    /// All of it as ops, in order.
    pub(crate) fn ops(
        &self,
        _schema: &bitdex_proto::schema::Schema,
    ) -> bitdex_proto::Result<Vec<Op>> {
        todo!("build")
    }
}
