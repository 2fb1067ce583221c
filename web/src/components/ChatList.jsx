import { useEffect, useRef, useState } from 'preact/hooks';

import { useApp, useAppState, useUi, useUiState } from '../context.js';
import { exportAll, exportChat, importFiles } from '../files.js';
import { t } from '../i18n.js';
import { search } from '../search.js';
import { busy } from '../state.js';
import { Gem, Icon, IconButton } from './icons.jsx';
import { Menu } from './Menu.jsx';
import { Toasts } from './Toasts.jsx';

const DAY_MS = 86_400_000;

/** The list of chats: a column, or a drawer on a narrow screen. */
export function ChatList() {
  const app = useApp();
  const ui = useUi();
  const drawer = useUiState((state) => state.drawer);
  const query = useUiState((state) => state.query);
  const nav = useRef(/** @type {HTMLElement | null} */ (null));
  const picker = useRef(/** @type {HTMLInputElement | null} */ (null));

  // The focus moves into the drawer and, when that closes, back; whoever closed it may have placed it elsewhere.
  const wasOpen = useRef(drawer);
  useEffect(() => {
    const list = nav.current;
    if (drawer) list?.querySelector('button')?.focus();
    else if (wasOpen.current && (document.activeElement === document.body || list?.contains(document.activeElement))) {
      document.getElementById('menu')?.focus();
    }
    wasOpen.current = drawer;
  }, [drawer]);

  const newChat = () => {
    app.chats.create();
    ui.set({ drawer: false, query: '' });
    document.getElementById('message')?.focus();
  };

  const newRaw = () => {
    app.chats.createRaw();
    ui.set({ drawer: false, query: '' });
    requestAnimationFrame(() => document.getElementById('message')?.focus());
  };

  return (
    <>
      <nav class="list" aria-label={t('list.label')} ref={nav}>
        <div class="list-head">
          <span class="brand">
            <Gem />
            {t('app.name')}
          </span>
          <IconButton icon="close" label={t('list.close')} onClick={() => ui.set({ drawer: false })} class="narrow-only" />
        </div>
        <div class="new">
          <button type="button" class="new-chat" onClick={newChat}>
            <Icon name="plus" />
            {t('list.new')}
          </button>
          <IconButton icon="text" label={t('list.newRaw')} onClick={newRaw} class="new-raw" />
        </div>
        <div class="search">
          <Icon name="search" />
          <input
            id="search"
            type="search"
            dir="auto"
            value={query}
            placeholder={t('list.search')}
            aria-label={t('list.search')}
            onInput={(event) => ui.set({ query: event.currentTarget.value })}
            onKeyDown={(event) => {
              if (event.isComposing) return;
              if (event.key === 'Enter') /** @type {HTMLElement | null | undefined} */ (nav.current?.querySelector('button.hit'))?.click();
              if (event.key !== 'Escape') return;
              event.stopPropagation();
              ui.set({ query: '' });
            }}
          />
        </div>
        <div class="list-body">{query.trim() === '' ? <Groups /> : <Results query={query} />}</div>
        <div class="list-foot">
          <input
            ref={picker}
            type="file"
            accept=".json,application/json"
            multiple
            hidden
            onChange={(event) => {
              void importFiles(app, [...(event.currentTarget.files ?? [])]);
              event.currentTarget.value = '';
            }}
          />
          <IconButton icon="download" label={t('list.exportAll')} onClick={() => void exportAll(app)} />
          <IconButton icon="upload" label={t('list.import')} onClick={() => picker.current?.click()} />
          <IconButton icon="keyboard" label={t('list.help')} onClick={() => ui.open({ name: 'help' })} />
          <IconButton icon="info" label={t('list.about')} onClick={() => ui.open({ name: 'about' })} />
          <Quit />
        </div>
      </nav>
      {drawer && <div class="shade" onClick={() => ui.set({ drawer: false })} />}
      {drawer && <Toasts />}
    </>
  );
}

/** Ends the program: one that was started by a double-click may have no window of its own. */
function Quit() {
  const app = useApp();
  const ui = useUi();
  const token = useAppState((state) => state.props?.quitToken);
  const there = useAppState((state) => state.machine.phase !== 'disconnected');
  if (!token || !there) return null;
  const ask = () =>
    ui.open({
      name: 'confirm',
      title: t('quit.title'),
      text: t(busy(app.state.machine) ? 'quit.questionBusy' : 'quit.question'),
      yes: t('quit.yes'),
      act: () => void app.quit(token),
    });
  return <IconButton icon="power" label={t('quit.title')} onClick={ask} class="quit" />;
}

function Groups() {
  const conversations = useAppState((state) => state.conversations);
  if (conversations.length === 0) return <p class="list-empty">{t('list.empty')}</p>;
  const midnight = new Date().setHours(0, 0, 0, 0);
  /** @type {[import('../i18n.js').Key, import('../store.js').Conversation[]][]} */
  const groups = [
    ['list.pinned', conversations.filter((chat) => chat.pinned)],
    ['list.today', conversations.filter((chat) => !chat.pinned && chat.updated >= midnight)],
    ['list.week', conversations.filter((chat) => !chat.pinned && chat.updated < midnight && chat.updated >= midnight - 6 * DAY_MS)],
    ['list.older', conversations.filter((chat) => !chat.pinned && chat.updated < midnight - 6 * DAY_MS)],
  ];
  return (
    <>
      {groups.map(
        ([key, chats]) =>
          chats.length > 0 && (
            <section key={key}>
              <h2>{t(key)}</h2>
              <ul>
                {chats.map((chat) => (
                  <Entry key={chat.id} chat={chat} />
                ))}
              </ul>
            </section>
          ),
      )}
    </>
  );
}

/** @param {{ chat: import('../store.js').Conversation }} props */
function Entry({ chat }) {
  const app = useApp();
  const ui = useUi();
  const open = useAppState((state) => state.conversation.id === chat.id);
  const writing = useAppState((state) => state.live?.conversation === chat.id);
  const [renaming, setRenaming] = useState(false);
  const title = chat.title || t('header.untitled');
  /** The entry may have moved, or be made anew. @param {string} part of it */
  const focusOn = (part) => requestAnimationFrame(() => /** @type {HTMLElement | null | undefined} */ (document.getElementById(`c-${chat.id}`)?.querySelector(part))?.focus());
  const pin = () => {
    app.chats.togglePin(chat.id);
    focusOn('.menu button');
  };
  const remove = async () => {
    const at = [...document.querySelectorAll('.entry')].findIndex((entry) => entry.id === `c-${chat.id}`);
    await app.chats.remove(chat.id);
    requestAnimationFrame(() => {
      const left = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll('.entry-open'));
      (left[Math.min(at, left.length - 1)] ?? document.querySelector('.new-chat')).focus();
    });
  };
  if (renaming) {
    return (
      <li class="entry" id={`c-${chat.id}`}>
        <input
          class="entry-field"
          dir="auto"
          aria-label={t('list.titleField')}
          defaultValue={chat.title}
          ref={(field) => field?.select()}
          onBlur={(event) => {
            app.chats.rename(chat.id, event.currentTarget.value);
            setRenaming(false);
          }}
          onKeyDown={(event) => {
            if (event.isComposing) return;
            if (event.key === 'Escape') {
              event.stopPropagation();
              event.currentTarget.value = chat.title;
            }
            if (event.key !== 'Enter' && event.key !== 'Escape') return;
            event.currentTarget.blur();
            focusOn('.entry-open');
          }}
        />
      </li>
    );
  }
  return (
    <li class={`entry ${open ? 'open' : ''}`} id={`c-${chat.id}`}>
      <button
        type="button"
        class="entry-open"
        dir="auto"
        aria-current={open ? 'true' : undefined}
        onClick={() => {
          void app.chats.open(chat.id);
          ui.set({ drawer: false });
        }}
      >
        {writing && <span class="dot" />}
        {chat.text !== undefined && <Icon name="text" />}
        {title}
      </button>
      <Menu
        label={t('list.actions', { title })}
        items={[
          { icon: 'edit', label: t('list.rename'), act: () => setRenaming(true) },
          { icon: 'pin', label: t(chat.pinned ? 'list.unpin' : 'list.pin'), act: pin },
          { icon: 'copy', label: t('list.duplicate'), act: () => void app.chats.duplicate(chat.id) },
          { icon: 'download', label: t('list.export'), act: () => void exportChat(app, chat.id, 'json') },
          { icon: 'download', label: t('list.exportMarkdown'), act: () => void exportChat(app, chat.id, 'markdown') },
          { icon: 'download', label: t('list.exportPage'), act: () => void exportChat(app, chat.id, 'page') },
          { icon: 'trash', label: t('list.delete'), act: () => void remove(), danger: true },
        ]}
      />
    </li>
  );
}

/** @param {{ query: string }} props */
function Results({ query }) {
  const app = useApp();
  const ui = useUi();
  const conversations = useAppState((state) => state.conversations);
  const [messages, setMessages] = useState(/** @type {import('../tree.js').Message[] | null} */ (null));
  useEffect(() => {
    void app.store.allMessages().then(setMessages);
  }, [conversations]);
  if (messages === null) return null;
  const titles = new Map(conversations.map((chat) => [chat.id, chat.title]));
  const raw = conversations.map(({ id, text = '', updated }) => ({ id, conversation: id, content: text, time: updated }));
  const hits = search(query, conversations, [...messages, ...raw]);
  if (hits.length === 0) return <p class="list-empty" role="status">{t('list.nothing', { query })}</p>;
  return (
    <section>
      <h2 aria-live="polite">{t('list.results', { count: hits.length })}</h2>
      <ul>
        {hits.map((hit) => (
          <li key={hit.conversation} class="entry">
            <button
              type="button"
              class="entry-open hit"
              onClick={async () => {
                await app.chats.open(hit.conversation);
                ui.set({ drawer: false });
                if (hit.message) {
                  app.messages.show(hit.message);
                  requestAnimationFrame(() => {
                    const message = document.getElementById(`m-${hit.message}`);
                    message?.scrollIntoView({ block: 'center' });
                    message?.focus({ preventScroll: true });
                  });
                }
              }}
            >
              <span class="hit-title" dir="auto">{titles.get(hit.conversation)}</span>
              <span class="hit-text" dir="auto">
                {hit.before}
                <mark>{hit.match}</mark>
                {hit.after}
              </span>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
