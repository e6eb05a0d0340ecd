//! Clients that lose their network say no goodbye: what they held comes free by itself.

/// A minute.
mod long {
    use meridian_tests::gateway::{GatewayProcess, REGION, ZONES, embedded};
    use meridian_tests::namespaces::Namespaces;
    use meridian_tests::patience::until;
    use meridian_tests::tokens::Issuer;
    use std::io::Read;
    use std::process::Stdio;
    use std::time::Duration;

    /// Connections that the gateway takes.
    const PLACES: i64 = 7;
    /// Silence, then three probes, 10 s each; and the longest that a look takes.
    const FREED: Duration = Duration::from_secs(30 + 3 * 10 + 20);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn clients_that_vanish_give_their_places_back() {
        let namespaces = Namespaces::make(2);
        let gateway = GatewayProcess::of(REGION, &ZONES, &Issuer::init(), embedded())
            .at(&namespaces.home(0))
            .with("http", "max_connections", PLACES)
            .started()
            .await;
        let address = gateway.address();
        let connect = format!("exec $n<>/dev/tcp/{}/{}", address.ip(), address.port());
        let hold = format!("for n in {{3..9}}; do eval \"{connect}\"; done; echo held; exec sleep 600",);
        let mut holder = namespaces.home(1).command("bash");
        let mut holder = holder.args(["-c", &hold]).stdout(Stdio::piped()).spawn().unwrap();
        holder.stdout.take().unwrap().read_exact(&mut [0; 4]).unwrap();
        until("every place is taken", Duration::from_secs(60), async || {
            gateway.client().try_get("/livez").await.is_err()
        })
        .await;
        namespaces.drop_from(1, 0);
        holder.kill().unwrap();
        let _ = holder.wait().unwrap();
        let took = until("the places come free", FREED, async || {
            gateway.client().try_get("/livez").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        println!("the places of clients that vanished are free after {took:?}");
    }
}
