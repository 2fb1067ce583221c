import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';

import { useApp, useAppState, useUi } from '../context.js';
import { t } from '../i18n.js';
import { Sentences } from '../sentences.js';
import { IconButton } from './icons.jsx';

/**
 * Short notes at the bottom, with Undo where something was deleted. `live`: in an open dialog, behind which the region that
 * screen readers follow is out of reach.
 * @param {{ live?: boolean }} props
 */
export function Toasts({ live = false }) {
  const toasts = useAppState((state) => state.toasts);
  const notes = toasts.map((toast) => <Note key={toast.id} toast={toast} />);
  if (live) return <div class="toasts" role="status">{notes}</div>;
  return <section class="toasts" aria-label={t('toast.label')}>{notes}</section>;
}

/** @param {{ toast: import('../app.js').Toast }} props */
function Note({ toast }) {
  const app = useApp();
  const place = useRef(/** @type {HTMLDivElement | null} */ (null));
  // It goes by itself or with the button that was pressed in it; who is there goes on reading.
  useLayoutEffect(() => {
    const note = place.current;
    return () => {
      if (!note?.contains(document.activeElement)) return;
      const rest = note.closest('dialog')?.querySelector('button') ?? document.querySelector('main');
      rest?.focus({ preventScroll: true });
    };
  }, []);
  return (
    <div class="toast" ref={place}>
      <span>{textOf(toast)}</span>
      {toast.action && (
        <button type="button" class="small" onClick={() => app.actOnToast(toast.id)}>
          {t(/** @type {any} */ (toast.action.key))}
        </button>
      )}
      <IconButton icon="close" label={t('toast.close')} onClick={() => app.dismissToast(toast.id)} />
    </div>
  );
}

/** @param {import('../app.js').Toast} toast */
const textOf = (toast) => t(/** @type {any} */ (toast.key), toast.values);

/** The one region that screen readers follow. A growing reply is not live; its end is announced as a whole. */
export function Live() {
  const app = useApp();
  const ui = useUi();
  const region = useRef(/** @type {HTMLDivElement | null} */ (null));
  useEffect(() => {
    const say = (/** @type {string} */ text) => {
      if (region.current) region.current.textContent = text;
    };
    ui.announce = say;
    let before = app.state.live;
    let sentences = new Sentences();
    const listen = (/** @type {import('../app.js').Live} */ live) => {
      if (app.state.preferences.announce !== 'sentence') return;
      const text = sentences.take(live.text);
      if (text !== '') say(text);
    };
    app.streamListeners.add(listen);
    let heard = app.toastCount;
    const stop = app.subscribe(() => {
      const { live, machine, preferences, toasts } = app.state;
      const note = toasts.at(-1);
      if (note && note.id > heard) {
        heard = note.id;
        say(textOf(note));
      }
      if (live?.id === before?.id) return;
      const ended = before;
      before = live;
      if (preferences.announce === 'off') return;
      if (live) say(t('status.replying'));
      else if (machine.phase === 'stopped') say(t('status.stopped'));
      else if (machine.phase === 'error' || machine.phase === 'disconnected') say('');
      else if (preferences.announce === 'sentence') say(sentences.take(ended?.text ?? '', true));
      else say(ended?.text ?? '');
      sentences = new Sentences();
    });
    return () => {
      app.streamListeners.delete(listen);
      stop();
    };
  }, [app, ui]);
  return <div class="visually-hidden" role="status" aria-live="polite" ref={region} />;
}
