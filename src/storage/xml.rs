//! The two XML documents that are read here: a page of a listing, and an error.

use roxmltree::{Document, Node};

/// One page of `ListObjectsV2`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) objects: Vec<Listed>,
    /// Asks for the next one; none on the last.
    pub(super) next: Option<String>,
    /// The store says that there is a next one.
    pub(super) more: bool,
}

/// An object in a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) key: String,
    /// Bytes.
    pub(super) size: u64,
    /// As it is there, with its quotes.
    pub(super) etag: String,
}

/// Why the store refused something, in its words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: String,
    pub(crate) message: Option<String>,
}

/// `None` when this is no listing, or one with an object that has no name.
pub(super) fn page(body: &[u8]) -> Option<Page> {
    let document = Document::parse(std::str::from_utf8(body).ok()?).ok()?;
    let root = document.root_element();
    if !root.has_tag_name("ListBucketResult") {
        return None;
    }
    let objects = root.children().filter(|node| node.has_tag_name("Contents"));
    let objects = objects.map(|node| {
        Some(Listed {
            // A request without a name would be one about the bucket.
            key: text(node, "Key").filter(|key| !key.is_empty())?,
            size: text(node, "Size")
                .and_then(|size| size.parse().ok())
                .unwrap_or_default(),
            etag: text(node, "ETag").unwrap_or_default(),
        })
    });
    Some(Page {
        objects: objects.collect::<Option<_>>()?,
        more: text(root, "IsTruncated").is_some_and(|text| text == "true"),
        next: text(root, "NextContinuationToken").filter(|token| !token.is_empty()),
    })
}

/// `None` when this is no error of an S3 service.
pub(crate) fn error(body: &[u8]) -> Option<Said> {
    let document = Document::parse(std::str::from_utf8(body).ok()?).ok()?;
    // Some services wrap it.
    let error = document.descendants().find(|node| node.has_tag_name("Error"))?;
    Some(Said {
        code: text(error, "Code")?,
        message: text(error, "Message"),
    })
}

/// Is the document's root a `name`?
pub(super) fn is(body: &[u8], name: &str) -> bool {
    let text = std::str::from_utf8(body).unwrap_or_default();
    Document::parse(text).is_ok_and(|document| document.root_element().has_tag_name(name))
}

/// The text of the child `name`.
pub(crate) fn text(node: Node<'_, '_>, name: &str) -> Option<String> {
    let found = node.children().find(|child| child.has_tag_name(name))?;
    Some(found.text().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_its_names_as_they_are() {
        let body = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>notes</Name><IsTruncated>true</IsTruncated>
            <Contents><Key> a &amp; b&#39;s.md </Key><Size>7</Size><ETag>&quot;abc&quot;</ETag></Contents>
            <Contents><Key>ü/</Key><Size>0</Size></Contents>
            <NextContinuationToken>more</NextContinuationToken></ListBucketResult>"#;
        let page = page(body.as_bytes()).unwrap();
        assert_eq!(page.next.as_deref(), Some("more"));
        let found: Vec<_> = page
            .objects
            .iter()
            .map(|object| (object.key.as_str(), object.size, object.etag.as_str()))
            .collect();
        assert_eq!(found, [(" a & b's.md ", 7, "\"abc\""), ("ü/", 0, "")]);
    }

    #[test]
    fn an_empty_bucket_is_a_page_and_a_web_page_is_none() {
        assert_eq!(page(b"<ListBucketResult></ListBucketResult>"), Some(Page::default()));
        for other in [
            "",
            "<html><body>Welcome to nginx!</body></html>",
            "<br>",
            "{}",
            "<Error><Code>X</Code></Error>",
        ] {
            assert_eq!(page(other.as_bytes()), None, "{other}");
        }
        assert_eq!(page(&[0xff, 0xfe]), None);
    }

    #[test]
    fn an_object_without_a_name_is_no_listing() {
        for key in ["", "<Key></Key>", "<Key/>"] {
            let body = format!("<ListBucketResult><Contents>{key}<Size>1</Size></Contents></ListBucketResult>");
            assert_eq!(page(body.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn an_error_has_a_code() {
        let said = error(
            b"<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code><Message>less &lt;please&gt;</Message></Error>",
        );
        let wanted = Said {
            code: "SlowDown".into(),
            message: Some("less <please>".into()),
        };
        assert_eq!(said, Some(wanted));
        assert_eq!(error(b"<html></html>"), None);
        assert_eq!(error(b"busy"), None);
    }
}
