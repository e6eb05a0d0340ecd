//! Server-sent events (WHATWG HTML, section 9.2), parsed from bytes as they come.
//!
//! Lines may end in LF or CRLF; a lone CR, which the specification allows too, no gateway sends.

/// Longest event that is taken: the largest answer is about 2 MiB.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// `snapshot`, `change`; `message` where the stream names none.
    pub(crate) name: String,
    /// What to resume after.
    pub(crate) id: Option<String>,
    /// The lines of data, joined.
    pub(crate) data: String,
}

/// An event grew beyond all bounds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// What has come and is not an event yet.
#[derive(Debug, Default)]
pub(crate) struct EventStream {
    rest: Vec<u8>,
    name: String,
    id: Option<String>,
    data: Option<String>,
}

impl EventStream {
    /// Takes bytes and gives the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut taken = 0;
        while let Some(length) = self.rest.iter().skip(taken).position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(self.rest.get(taken..taken + length).unwrap_or_default())
                .into_owned();
            taken += length + 1;
            events.extend(self.line(line.strip_suffix('\r').unwrap_or(&line)));
        }
        self.rest.drain(..taken);
        let pending = self.rest.len() + self.data.as_ref().map_or(0, String::len);
        if pending > MAX_EVENT_BYTES { Err(TooLong) } else { Ok(events) }
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = self.data.take()?;
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return Some(Event { name, id: self.id.clone(), data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // A comment keeps the connection alive; other fields are for others.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ":\n\nevent: snapshot\nid: t1\ndata: {\"a\":1}\n\n: alive\n\nevent:change\r\nid:t2\r\ndata: x\r\ndata: y\r\n\r\ndata: é\n\nevent: lost\n\ndata: cut";

    fn events() -> Vec<(String, Option<String>, String)> {
        let of = |name: &str, id: &str, data: &str| (name.to_owned(), Some(id.to_owned()), data.to_owned());
        vec![of("snapshot", "t1", "{\"a\":1}"), of("change", "t2", "x\ny"), of("message", "t2", "é")]
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        for size in 1..=STREAM.len() {
            let mut stream = EventStream::default();
            let mut found = Vec::new();
            for piece in STREAM.as_bytes().chunks(size) {
                found.extend(stream.push(piece).unwrap().into_iter().map(|e| (e.name, e.id, e.data)));
            }
            assert_eq!(found, events(), "in pieces of {size}");
        }
    }

    #[test]
    fn an_endless_event_is_not_gathered() {
        let mut stream = EventStream::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..=64).find_map(|_| stream.push(&piece).err());
        assert_eq!(refused, Some(TooLong));
    }
}
