//! Bytes that tests send: requests, responses, events, and a small seeded generator.

use super::MODEL;

/// A chat request for [`MODEL`].
pub fn chat() -> Vec<u8> {
    post("/v1/chat/completions", &chat_body(MODEL))
}

/// The body of a chat request for `model`.
pub fn chat_body(model: &str) -> Vec<u8> {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"Hi"}}]}}"#).into_bytes()
}

/// A chat request that a [`super::Desk`] knows by its tag.
pub fn ask(tag: &str) -> Ask {
    Ask {
        fields: format!("X-Tag: {tag}\r\n"),
        model: MODEL.to_owned(),
        is_stream: false,
        version: "1.1",
    }
}

/// A chat request in the making.
#[derive(Clone)]
pub struct Ask {
    fields: String,
    model: String,
    is_stream: bool,
    version: &'static str,
}

impl Ask {
    pub fn model(mut self, model: &str) -> Self {
        model.clone_into(&mut self.model);
        self
    }

    pub fn key(self, key: &str) -> Self {
        self.field("Authorization", &format!("Bearer {key}"))
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub fn stream(mut self) -> Self {
        self.is_stream = true;
        self
    }

    pub fn http10(mut self) -> Self {
        self.version = "1.0";
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let Self {
            fields,
            model,
            is_stream,
            version,
        } = self;
        let body = format!(r#"{{"model":"{model}","stream":{is_stream},"messages":[]}}"#);
        format!(
            "POST /v1/chat/completions HTTP/{version}\r\nHost: router\r\n{fields}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

/// A POST with a JSON body of known length.
pub fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: router\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A 200 response of known length.
pub fn fixed(body: &[u8]) -> Vec<u8> {
    let mut response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    response.extend_from_slice(body);
    response
}

/// The head of a chunked event stream.
pub fn sse_head() -> &'static [u8] {
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
}

/// One chunk that carries one event.
pub fn event(data: &str) -> Vec<u8> {
    let event = format!("data: {data}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

/// A generator whose sequence follows from its seed (xorshift64*).
#[derive(Clone)]
pub struct Prng(u64);

impl Prng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 6);
        while bytes.len() < count {
            // The generator gives 53 bits.
            bytes.extend_from_slice(&self.next().to_le_bytes()[..6]);
        }
        bytes.truncate(count);
        bytes
    }
}
