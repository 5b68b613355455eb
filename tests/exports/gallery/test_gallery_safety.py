"""In a real browser no text of a journal does anything, and records of other versions are shown."""

from __future__ import annotations

from support.gallery_pages import (
    HOSTILE,
    SAMPLE,
    card_ids,
    failed_record,
    record,
    search_for,
    wait_until,
    write_gallery,
)
from support.gallery_pages import browser as browser  # a fixture
from support.gallery_pages import open_page as open_page  # a fixture
from support.gallery_pages import usual_context as usual_context  # a fixture


def caption_texts(page):
    return page.locator(".caption > .text").all_text_contents()


def test_no_text_of_a_journal_does_anything(open_page):
    def spread(text):
        meta = {text: [text, {text: text}]}
        values = dict.fromkeys(("image", "type", "style", "lang", "model", "engine", "caption"), text)
        yield record(text, **values, meta=meta, finish_reason=text, width=text, settings=text) | {text: text}
        yield failed_record(text, kind=text, message=text) | {"status": text, "caption": text}

    records = [each for text in HOSTILE for each in spread(text)]
    page = open_page(records, title=HOSTILE[1] + HOSTILE[0])
    assert page.get_by_role("heading", level=1).text_content() == HOSTILE[1] + HOSTILE[0]
    seen = []
    for each in records:
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        seen.append((page.locator("#detail-id").text_content(), page.locator("#detail .text").text_content()))
        assert page.evaluate(
            "id => [...document.querySelectorAll('#detail dd')].some(node => node.textContent === id)", each["id"]
        )
        page.keyboard.press("Escape")
        wait_until(page, "!document.querySelector('dialog[open]')")
    assert seen == [(text, text) for text in HOSTILE for _ in range(2)]
    assert page.evaluate("[...document.querySelectorAll('.badge.error')].length") > 0
    for text in HOSTILE:
        search_for(page, text)
        assert text in page.locator(".card h2").all_text_contents()
        search_for(page, "")
        page.get_by_label("Filter by type").select_option(text)
        page.get_by_label("Filter by type").select_option("any type")
        # by way of none: the address may have followed the search to this very caption, and to go there is no change
        page.evaluate("text => ((location.hash = ''), (location.hash = encodeURIComponent(text)))", text)
        wait_until(page, "text => document.activeElement.caption?.record.id === text", text)
    links = page.evaluate("[...document.links].map(link => link.getAttribute('href'))")
    assert links
    assert all(link.startswith("#") for link in links)
    assert page.evaluate("window.pwned") is None
    assert page.locator("img").count() == page.locator("img[src^='data:image/webp;base64,']").count() > 0
    assert page.locator("svg, iframe, object, style:not(head style), script:not([type]) ~ :not(script)").count() == 0


def test_the_policy_refuses_what_the_page_never_does(browser, tmp_path):
    path = tmp_path / "gallery.html"
    path.write_bytes(write_gallery(SAMPLE)[1])
    page = browser.new_page()
    page.goto(path.as_uri())
    refused = """action => new Promise((done) => setTimeout(() => {  // later: what a debugger runs is let through
        try { action(); done("done"); } catch (error) { done(error.name); }
    }))"""
    for action in (
        "() => (document.body.innerHTML = '<b>')",
        "() => document.body.insertAdjacentHTML('beforeend', '<b>')",
        "() => eval('1')",
        "() => new Function('1')",
        "() => (document.createElement('script').text = '1')",
        "() => document.body.setAttribute('onclick', 'window.pwned = 1')",
    ):
        assert page.evaluate(f"({refused})({action})") in ("TypeError", "EvalError"), action
    asked = page.evaluate(
        """async () => {
            const asked = [];
            document.addEventListener("securitypolicyviolation", (event) =>
                asked.push([event.effectiveDirective, event.disposition, event.blockedURI]));
            const image = new Image();
            const over = new Promise((done) => (image.onload = image.onerror = done));
            image.src = "https://example.invalid/picture.png";
            await over;
            await fetch("https://example.invalid/beacon").catch(() => 0);
            document.body.append(document.createElement("iframe"));
            document.body.lastChild.src = "https://example.invalid/frame";
            const style = document.createElement("style");
            style.append("body { color: red }");
            document.body.append(style);
            while (asked.length < 4) await new Promise((done) => setTimeout(done, 5));
            return asked.sort();
        }"""
    )
    assert asked == [
        ["connect-src", "enforce", "https://example.invalid/beacon"],
        ["frame-src", "enforce", "https://example.invalid"],
        ["img-src", "enforce", "https://example.invalid/picture.png"],
        ["style-src-elem", "enforce", "inline"],
    ]
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert "unsafe" not in policy
    assert {"default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"} <= set(policy.split("; "))
    page.close()


def test_records_of_other_versions(open_page):
    records = [
        {},
        {"id": "no status", "caption": "text"},
        {"id": 7, "caption": ["a", 1], "type": None, "style": {"x": 1}, "lang": "not a language!", "meta": "plain"},
        {"id": "old error", "error": "just words", "status": "error"},
        {"id": "odd error", "error": ["x"], "status": "error", "meta": [1, None, {"deep": [2]}]},
        {"id": "null error", "error": None, "status": "ok", "caption": None, "finish_reason": 5},
        {"id": ["list"], "status": "ok", "caption": 12.5, "width": -1.5, "height": "tall"},
        {"id": "", "caption": " \n\t", "status": "ok"},
    ]
    page = open_page(records, viewport={"width": 1280, "height": 3000})
    assert card_ids(page) == [
        "(no id)",
        "no status",
        "7",
        "old error",
        "odd error",
        "null error",
        '["list"]',
        "(no id)",
    ]
    assert caption_texts(page) == ["text", '["a",1]', "just words", '["x"]', "12.5"]
    for _ in records:
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("Escape")
        wait_until(page, "!document.querySelector('dialog[open]')")
    search_for(page, "deep: 2")
    assert card_ids(page) == ["odd error"]
