//! Where regions stand and how what is between them breaks: on loopback behind proxies, or in network namespaces behind a
//! router. Inside a region nothing is ever cut.
//!
//! A proxy delays and counts, and its cut is a network that forgot connections: when it heals they are closed. A router
//! loses packets, and connections live or die by their own timers. Docker's place is `tests/tests/docker/place.rs`.

use crate::home::Home;
use crate::namespaces::Namespaces;
use crate::proxy::{Direction, Proxy};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Where nodes listen in namespaces, in which nobody else does.
const NODE_PORT: u16 = 7_400;

/// A place for regions, which are numbers here.
pub enum Place {
    /// Proxies by who dials and who is dialled.
    Loopback(BTreeMap<(usize, usize), Proxy>),
    /// One for each region.
    Namespaces(Namespaces),
}

impl Place {
    /// So many regions on loopback.
    pub async fn on_loopback(regions: usize) -> Self {
        let mut links = BTreeMap::new();
        for pair in (0..regions).flat_map(|a| (0..regions).map(move |b| (a, b))) {
            if pair.0 != pair.1 {
                links.insert(pair, Proxy::listen().await);
            }
        }
        Self::Loopback(links)
    }

    /// So many regions in namespaces.
    ///
    /// # Panics
    /// As [`Namespaces::make`].
    #[must_use]
    pub fn in_namespaces(regions: usize) -> Self {
        Self::Namespaces(Namespaces::make(regions))
    }

    /// Where a region's processes run.
    #[must_use]
    pub fn home(&self, at: usize) -> Home {
        match self {
            Self::Loopback(_) => Home::loopback(),
            Self::Namespaces(namespaces) => namespaces.home(at),
        }
    }

    /// What a region's node listens on.
    #[must_use]
    pub fn listens(&self, at: usize) -> SocketAddr {
        let port = match self {
            Self::Loopback(_) => 0,
            Self::Namespaces(_) => NODE_PORT,
        };
        SocketAddr::new(self.home(at).host(), port)
    }

    /// What a region dials to reach another's node.
    ///
    /// # Panics
    /// Where they are the same.
    #[must_use]
    pub fn dials(&self, from: usize, to: usize) -> SocketAddr {
        match self {
            Self::Loopback(links) => links[&(from, to)].address(),
            Self::Namespaces(_) => self.listens(to),
        }
    }

    /// Says where a region's node listens, once it does.
    pub fn found(&self, at: usize, node: SocketAddr) {
        if let Self::Loopback(links) = self {
            links.iter().filter(|((_, to), _)| *to == at).for_each(|(_, link)| link.lead_to(node));
        }
    }

    /// Nothing goes between two regions.
    ///
    /// # Panics
    /// As [`Place::cut_one_way`].
    pub fn cut(&self, a: usize, b: usize) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Nothing goes from a region to another, on whosever connections.
    ///
    /// # Panics
    /// If the router cannot be told.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        match self {
            Self::Loopback(links) => {
                links[&(from, to)].cut_one_way(Direction::There);
                links[&(to, from)].cut_one_way(Direction::Back);
            }
            Self::Namespaces(namespaces) => namespaces.drop_from(from, to),
        }
    }

    /// Ends every cut.
    ///
    /// # Panics
    /// If the router cannot be told.
    pub fn heal(&self) {
        match self {
            Self::Loopback(links) => links.values().for_each(Proxy::heal),
            Self::Namespaces(namespaces) => namespaces.drop_nothing(),
        }
    }

    fn proxies(&self) -> &BTreeMap<(usize, usize), Proxy> {
        match self {
            Self::Loopback(links) => links,
            Self::Namespaces(_) => panic!("only proxies delay and count, and they stand on loopback"),
        }
    }

    /// Whether links can be slow here.
    #[must_use]
    pub fn delays(&self) -> bool {
        matches!(self, Self::Loopback(_))
    }

    /// Everything between two regions takes so much longer, each way.
    ///
    /// # Panics
    /// In namespaces.
    pub fn slow(&self, a: usize, b: usize, by: Duration) {
        for pair in [(a, b), (b, a)] {
            self.proxies()[&pair].delay(Direction::There, by);
            self.proxies()[&pair].delay(Direction::Back, by);
        }
    }

    /// Bytes that went from a region to another.
    ///
    /// # Panics
    /// In namespaces.
    #[must_use]
    pub fn carried(&self, from: usize, to: usize) -> u64 {
        let links = self.proxies();
        links[&(from, to)].carried(Direction::There) + links[&(to, from)].carried(Direction::Back)
    }
}
