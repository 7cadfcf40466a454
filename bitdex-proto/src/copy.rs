//! COPY binary rows.
