import { useEffect, useRef } from 'preact/hooks';

import { useApp, useAppState, useUi } from '../context.js';
import { t } from '../i18n.js';
import { Sentences } from '../sentences.js';
import { IconButton } from './icons.jsx';

/** A short note at the bottom, with Undo where something was deleted. */
export function Toasts() {
  const app = useApp();
  const toast = useAppState((state) => state.toast);
  if (!toast) return null;
  return (
    <div class="toast" role="status" key={toast.id}>
      <span>{t(/** @type {any} */ (toast.key), toast.values)}</span>
      {toast.action && (
        <button type="button" class="small" onClick={() => app.actOnToast()}>
          {t(/** @type {any} */ (toast.action.key))}
        </button>
      )}
      <IconButton icon="close" label={t('toast.close')} onClick={() => app.dismissToast()} />
    </div>
  );
}

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
    const stop = app.subscribe(() => {
      const { live, machine, preferences } = app.state;
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
