import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';

import { useApp, useAppState } from '../context.js';
import { Follower } from '../follow.js';
import { t } from '../i18n.js';
import { index, path, ROOT } from '../tree.js';
import { Gem, Icon } from './icons.jsx';
import { Message } from './Message.jsx';

/** How many messages at the end are rendered completely at once; the others when they come near the view. */
const EAGER = 6;

/** The visible branch of the open chat. */
export function Thread() {
  const tree = useAppState((state) => state.tree);
  const choices = useAppState((state) => state.conversation.choices);
  const sendFrom = useAppState((state) => state.conversation.sendFrom);
  const conversation = useAppState((state) => state.conversation.id);
  const scroller = useRef(/** @type {HTMLElement | null} */ (null));
  const content = useRef(/** @type {HTMLDivElement | null} */ (null));
  const follower = useRef(/** @type {Follower | null} */ (null));
  const [atEnd, setAtEnd] = useState(true);

  const messages = useMemo(() => path(tree, choices), [tree, choices]);
  const siblings = useMemo(() => index(tree), [tree]);
  const firstSent = Math.max(0, messages.findIndex((message) => message.id === sendFrom));

  // Scrolling to and from the end renders this component again, and must not render thousands of messages again.
  const articles = useMemo(
    () =>
      messages.map((message, at) => (
        <Message
          key={message.id}
          message={message}
          number={at + 1}
          last={at === messages.length - 1}
          eager={at >= messages.length - EAGER}
          sent={at >= firstSent}
          siblings={siblings.get(message.parent ?? ROOT) ?? []}
        />
      )),
    [messages, siblings, firstSent],
  );

  useEffect(() => {
    if (!scroller.current || !content.current) return undefined;
    const made = new Follower(scroller.current, content.current, setAtEnd);
    follower.current = made;
    return () => made.close();
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
        {!atEnd && (
          <button type="button" class="latest" onClick={() => follower.current?.jump()}>
            <Icon name="down" />
            {t('status.latest')}
          </button>
        )}
      </section>
    </>
  );
}

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
      <p class="empty-model">{props ? t('empty.model', { model: props.name }) : t('empty.loading')}</p>
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
