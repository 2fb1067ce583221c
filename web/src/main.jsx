/** Brings the shell that the build wrote into `index.html` to life. */

import { hydrate } from 'preact';

import { Api } from './api.js';
import { App } from './app.js';
import { Page } from './components/Page.jsx';
import { AppContext, UiContext } from './context.js';
import { onLanguage, t } from './i18n.js';
import { listenForKeys } from './keys.js';
import { loadMarkdown } from './rich.js';
import { Store } from './store.js';
import { NARROW, UiStore } from './ui.js';

const OPEN = 'gemma2.open';
const LEFT = 'gemma2.left';
let persisted = false;
const root = /** @type {HTMLElement} */ (document.getElementById('app'));
const field = /** @type {HTMLTextAreaElement | null} */ (document.getElementById('message'));

const app = new App(new Api(), { draft: field?.value ?? '' });
const ui = new UiStore();

hydrate(
  <AppContext.Provider value={app}>
    <UiContext.Provider value={ui}>
      <Page />
    </UiContext.Provider>
  </AppContext.Provider>,
  root,
);

ui.readChoices();
ui.watchWidth();
// Told by other tabs only.
addEventListener('storage', () => ui.readChoices());
listenForKeys(app, ui);
if (!matchMedia(NARROW).matches) field?.focus();

app.subscribe(() => {
  const { conversation, preferences } = app.state;
  const title = conversation.title === '' ? t('app.name') : `${conversation.title} · ${t('app.name')}`;
  if (document.title !== title) document.title = title;
  document.documentElement.dataset.font = preferences.fontSize;
  if (app.state.started) remember(conversation.id);
  // After the first message, so that nobody is asked before there is something to keep.
  if (app.state.live && !persisted) {
    persisted = true;
    void navigator.storage?.persist?.();
  }
});

const typed = new URLSearchParams(location.search).get('q') ?? '';
// Once: a reload must not type it again.
if (typed !== '') history.replaceState(null, '', location.pathname + location.hash);
// Asked while the store is opened: the model's name is there sooner.
app.connection.begin();
const left = takeLeft();
void Store.open().then((store) => app.start(store, { open: typed === '' ? lastOpen() : null, typed, left }));
// Somebody comes back to this window, perhaps from the one in which the program was started again.
for (const name of ['focus', 'online']) addEventListener(name, () => app.connection.checkNow());
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible') app.connection.checkNow();
  // It may never be seen again.
  else if (app.state.started) app.drafts.flush();
});
addEventListener('pagehide', () => {
  if (!app.state.started) return;
  app.drafts.flush();
  keepLeft();
});
// After the first paint, so that it delays nothing.
requestAnimationFrame(() =>
  setTimeout(async () => {
    const { labels } = await loadMarkdown();
    const name = () => {
      labels.copy = t('message.copyCode');
    };
    name();
    onLanguage(name);
  }),
);

/** Which chat a reload of this tab comes back to. */
function lastOpen() {
  try {
    return sessionStorage.getItem(OPEN);
  } catch {
    return null;
  }
}

/** What was typed in this tab when it was left a moment ago: the database may not have had the time. @returns {import('./app.js').Left | null} */
function takeLeft() {
  try {
    const kept = sessionStorage.getItem(LEFT);
    sessionStorage.removeItem(LEFT);
    return JSON.parse(kept ?? 'null');
  } catch {
    return null;
  }
}

function keepLeft() {
  try {
    sessionStorage.setItem(LEFT, JSON.stringify(app.left));
  } catch {
    // Then what was typed in the last moment is lost.
  }
}

/** @param {string} id */
function remember(id) {
  try {
    if (sessionStorage.getItem(OPEN) !== id) sessionStorage.setItem(OPEN, id);
  } catch {
    // Then a reload opens a new chat.
  }
}
