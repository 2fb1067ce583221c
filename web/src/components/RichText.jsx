import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';

import { copy } from '../clipboard.js';
import { useApp, useUi } from '../context.js';
import { t } from '../i18n.js';
import { loadMarkdown, loadTools } from '../rich.js';

/** What is wider than its place because of a formula can be scrolled with the keyboard. @param {Element} element */
function makeReachable({ children }) {
  for (const block of /** @type {Iterable<HTMLElement>} */ (children)) {
    if (block.querySelector('math') && block.scrollWidth > block.clientWidth) block.tabIndex = 0;
  }
}

/**
 * Text as formatted Markdown. The element's children belong to this module, not to Preact: a growing reply changes sixty
 * times a second, and finished blocks must not be touched.
 * @param {{ id: string, text: string, live: boolean }} props
 */
export function RichText({ id, text, live }) {
  const app = useApp();
  const ui = useUi();
  const place = useRef(/** @type {HTMLDivElement | null} */ (null));
  const stream = useRef(/** @type {import('../growing.js').StreamRenderer | null} */ (null));
  const formatted = useRef(/** @type {string | null} */ (null));
  /** False as soon as the reply has ended, also for a frame that was asked for before. */
  const growing = useRef(live);

  useLayoutEffect(() => {
    const element = place.current;
    growing.current = live;
    if (!element) return undefined;
    if (!stream.current) {
      if (formatted.current === null) element.textContent = text;
      return undefined;
    }
    if (live) return undefined;
    // The end of a reply: nearly everything is shown already, and perhaps something of it is selected.
    const ending = stream.current;
    stream.current = null;
    formatted.current = text;
    ending.finish(text);
    makeReachable(element);
    if (ending.missing.size > 0) {
      void loadTools(ending.missing).then(() => {
        if (formatted.current !== text || stream.current) return;
        ending.refresh();
        ending.finish(text);
        makeReachable(element);
      });
    }
    return undefined;
  }, [live, text]);

  // A finished text.
  useEffect(() => {
    const element = place.current;
    if (!element || live || formatted.current === text) return undefined;
    let dropped = false;
    const show = async () => {
      const { fragment } = await loadMarkdown();
      if (dropped) return;
      let result = fragment(text);
      if (result.missing.size > 0) {
        await loadTools(result.missing);
        if (dropped) return;
        result = fragment(text);
      }
      element.replaceChildren(result.content);
      element.classList.add('rich');
      makeReachable(element);
      formatted.current = text;
    };
    void show();
    return () => {
      dropped = true;
    };
  }, [text, live]);

  // A reply that is being written.
  useEffect(() => {
    const element = place.current;
    if (!element || !live) return undefined;
    let frame = 0;
    let notBefore = 0;
    /** @type {Set<import('../growing.js').Tool>} fetched at most once */
    const asked = new Set();
    let latest = app.state.live?.id === id ? app.state.live.text : text;
    /** @type {typeof import('../growing.js') | null} */
    let markdown = null;
    const paint = () => {
      frame = 0;
      if (!markdown || !growing.current) return;
      const start = performance.now();
      if (start < notBefore) {
        frame = requestAnimationFrame(paint);
        return;
      }
      if (!stream.current) {
        stream.current = new markdown.StreamRenderer(element);
        element.classList.add('rich');
      }
      stream.current.update(latest);
      const missing = [...stream.current.missing].filter((tool) => !asked.has(tool));
      if (missing.length > 0) {
        for (const tool of missing) asked.add(tool);
        void loadTools(missing).then(() => {
          stream.current?.refresh();
          schedule();
        });
      }
      // On a slow machine typing and scrolling come first: formatting takes at most half of the time.
      const spent = performance.now() - start;
      notBefore = start + spent * 2;
    };
    const schedule = () => {
      if (frame === 0) frame = requestAnimationFrame(paint);
    };
    void loadMarkdown().then((loaded) => {
      markdown = loaded;
      schedule();
    });
    const listen = (/** @type {import('../app.js').Live} */ reply) => {
      if (reply.id !== id) return;
      latest = reply.text;
      schedule();
    };
    app.streamListeners.add(listen);
    return () => {
      app.streamListeners.delete(listen);
      cancelAnimationFrame(frame);
    };
  }, [live, id]);

  return <div class="text" dir="auto" ref={place} aria-busy={live} onClick={copyCode} />;

  /** One listener serves the copy buttons of all code blocks. @param {MouseEvent} event */
  async function copyCode(event) {
    const button = /** @type {Element} */ (event.target).closest('.copy-code');
    if (!button) return;
    const code = button.closest('figure')?.querySelector('code')?.textContent ?? '';
    if (!(await copy(code))) {
      app.notify('toast.copyFailed');
      return;
    }
    ui.announce(t('toast.copied'));
    button.textContent = t('message.copiedCode');
    setTimeout(() => {
      button.textContent = t('message.copyCode');
    }, 2000);
  }
}
