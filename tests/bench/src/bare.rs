//! What single lookups are compared with: the least that axum can do, one route that returns the same bytes.

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use tokio::net::TcpListener;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// File whose bytes are every answer
    #[arg(long)]
    file: PathBuf,
}

/// Serves until it is killed, on one thread: on one core that is axum's fastest form.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let bytes = Bytes::from(std::fs::read(&arguments.file).context("cannot read the answer")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let handler = move || {
            let bytes = bytes.clone();
            async move { ([(CONTENT_TYPE, "application/json")], bytes) }
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        eprintln!("{{\"address\":\"{}\"}}", listener.local_addr()?);
        axum::serve(listener, Router::new().route("/v1/resolve/{service}", get(handler))).await?;
        Ok(())
    })
}
