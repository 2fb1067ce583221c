import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';

import { useApp, useAppState, useLanguage, useUi } from '../context.js';
import { Follower } from '../follow.js';
import { t } from '../i18n.js';
import { index, path, ROOT } from '../tree.js';
import { Gem, Icon } from './icons.jsx';
import { Message } from './Message.jsx';

/** How many messages at the end are rendered completely at once; the others when they come near the view. */
const EAGER = 6;

/** The visible branch of the open chat. */
export function Thread() {
  const app = useApp();
  const ui = useUi();
  const tree = useAppState((state) => state.tree);
  const choices = useAppState((state) => state.conversation.choices);
  const sendFrom = useAppState((state) => state.conversation.sendFrom);
  const system = useAppState(() => app.settings.system.trim() !== '');
  const conversation = useAppState((state) => state.conversation.id);
  const language = useLanguage();
  const scroller = useRef(/** @type {HTMLElement | null} */ (null));
  const content = useRef(/** @type {HTMLDivElement | null} */ (null));
  const follower = useRef(/** @type {Follower | null} */ (null));
  const [atEnd, setAtEnd] = useState(true);

  const messages = useMemo(() => path(tree, choices), [tree, choices]);
  const siblings = useMemo(() => index(tree), [tree]);
  const sent = useMemo(() => new Set(app.prompts.sent(messages, true)), [messages, sendFrom, system]);

  // A new message, or scrolling to and from the end, must not render thousands of others again.
  const shown = useRef({ language, articles: new Map() });
  const articles = useMemo(() => {
    /** @type {Map<string, import('preact').VNode<any>>} */
    const before = shown.current.language === language ? shown.current.articles : new Map();
    const list = messages.map((message, at) => {
      const props = {
        message,
        number: at + 1,
        last: at === messages.length - 1,
        eager: at >= messages.length - EAGER,
        sent: sent.has(message),
        siblings: siblings.get(message.parent ?? ROOT) ?? [],
      };
      const known = before.get(message.id);
      return known && isSame(known.props, props) ? known : <Message key={message.id} {...props} />;
    });
    shown.current = { language, articles: new Map(messages.map((message, at) => [message.id, list[at]])) };
    return list;
  }, [messages, siblings, sent, language]);

  useEffect(() => {
    if (!scroller.current || !content.current) return undefined;
    const made = new Follower(scroller.current, content.current, setAtEnd);
    follower.current = made;
    // From the message field as well, where these keys have nothing to scroll.
    const page = (/** @type {KeyboardEvent} */ event) => {
      const { key, target } = event;
      const plain = !event.shiftKey && !event.ctrlKey && !event.altKey && !event.metaKey;
      if (!plain || (key !== 'PageUp' && key !== 'PageDown') || ui.state.dialog) return;
      const field = target instanceof HTMLTextAreaElement && target.id === 'message' && target.scrollHeight <= target.clientHeight;
      if (!field && target !== document.body) return;
      event.preventDefault();
      made.page(key === 'PageUp' ? -1 : 1);
    };
    document.addEventListener('keydown', page);
    return () => {
      document.removeEventListener('keydown', page);
      made.close();
    };
  }, []);
  // Opening a chat and sending a message show the end.
  const mine = messages.findLast((message) => message.role === 'user')?.id;
  useLayoutEffect(() => follower.current?.jump(), [conversation, mine]);

  return (
    <>
      <main class="thread" ref={scroller} tabIndex={-1}>
        <div class="thread-content" ref={content}>
          {messages.length === 0 ? <Empty /> : articles}
        </div>
      </main>
      <section class="latest-place" aria-label={t('status.latest')}>
        {!atEnd && messages.length > 0 && (
          <button
            type="button"
            class="latest"
            onClick={() => {
              // The button goes; reading goes on.
              scroller.current?.focus({ preventScroll: true });
              follower.current?.jump();
            }}
          >
            <Icon name="down" />
            {t('status.latest')}
          </button>
        )}
      </section>
    </>
  );
}

/**
 * Whether a message looks the same. `eager` only matters at first.
 * @param {import('./Message.jsx').MessageProps} a
 * @param {import('./Message.jsx').MessageProps} b
 */
const isSame = (a, b) =>
  a.message === b.message &&
  a.number === b.number &&
  a.last === b.last &&
  a.sent === b.sent &&
  a.siblings.length === b.siblings.length &&
  a.siblings.every((message, at) => message === b.siblings[at]);

const EXAMPLES = /** @type {const} */ (['empty.example1', 'empty.example2', 'empty.example3']);
const DEMO_EXAMPLES = /** @type {const} */ (['empty.demo1', 'empty.demo2', 'empty.demo3']);

/** A chat without messages: whom one talks to, and how one could begin. */
function Empty() {
  const app = useApp();
  const props = useAppState((state) => state.props);
  // The demo model knows little: what it is asked for here it can do.
  const examples = props?.demo ? DEMO_EXAMPLES : EXAMPLES;
  return (
    <div class="empty">
      <Gem />
      <p class="empty-title">{t('empty.title')}</p>
      <p class="empty-model">{props ? props.name : t('empty.loading')}</p>
      <ul class="examples" aria-label={t('empty.examples')}>
        {examples.map((key) => (
          <li key={key}>
            <button
              type="button"
              onClick={() => {
                app.drafts.set(t(key));
                document.getElementById('message')?.focus();
              }}
            >
              {t(key)}
            </button>
          </li>
        ))}
      </ul>
      <p class="empty-private">{t('empty.private')}</p>
    </div>
  );
}
