import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';

import { useApp, useAppState } from '../context.js';
import { t } from '../i18n.js';
import { canSend } from '../state.js';
import { Meter, SendOrStop } from './Composer.jsx';
import { Key } from './Failure.jsx';
import { ChangeFormat, FormatChip } from './Format.jsx';
import { Icon } from './icons.jsx';

/** A text the model goes on with, exactly as it stands: no templates, no turns. */
export function RawText() {
  const app = useApp();
  const text = useAppState((state) => state.conversation.text ?? '');
  const literal = useAppState((state) => state.conversation.literal === true);
  const demo = useAppState((state) => state.conversation.demo === true);
  const writing = useAppState((state) => state.live?.id === state.conversation.id);
  const before = useAppState((state) => state.rawBefore);
  const ready = useAppState((state) => state.started && canSend(state.machine));
  const failure = useAppState((state) => state.machine.failure);
  const field = useRef(/** @type {HTMLTextAreaElement | null} */ (null));

  // The text that grows is written into the field directly, and what was added is selected at the end.
  useEffect(() => {
    const area = field.current;
    if (!area || !writing) return undefined;
    let frame = 0;
    let latest = '';
    const paint = () => {
      frame = 0;
      const atEnd = area.scrollHeight - area.scrollTop - area.clientHeight < 48;
      area.value = latest;
      if (atEnd) area.scrollTop = area.scrollHeight;
    };
    const listen = (/** @type {import('../app.js').Live} */ live) => {
      if (live.id !== app.state.conversation.id) return;
      latest = live.text;
      if (frame === 0) frame = requestAnimationFrame(paint);
    };
    app.streamListeners.add(listen);
    return () => {
      app.streamListeners.delete(listen);
      cancelAnimationFrame(frame);
      area.value = app.state.conversation.text ?? '';
      const from = app.state.rawBefore;
      if (from !== null && area.isConnected) {
        area.focus();
        area.setSelectionRange(from.length, area.value.length);
      }
    };
  }, [writing]);
  useLayoutEffect(() => {
    const area = field.current;
    if (area && !writing && area.value !== text) area.value = text;
  }, [text, writing]);

  return (
    <main class="raw" tabIndex={-1}>
      <form
        class="raw-box"
        onSubmit={(event) => {
          event.preventDefault();
          void app.raw.generate();
        }}
      >
        <p class="help" id="raw-help">
          {demo && <span class="badge">{t('message.demo')}</span>} {t('raw.help')}
        </p>
        <textarea
          id="message"
          class="code-field"
          ref={field}
          dir="auto"
          defaultValue={text}
          readOnly={writing}
          spellcheck={false}
          aria-label={t('raw.label')}
          aria-describedby="raw-help"
          placeholder={t('raw.placeholder')}
          onInput={(event) => app.raw.setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.isComposing || event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
            event.preventDefault();
            void app.raw.generate();
          }}
        />
        <div class="raw-row">
          <label class="check">
            <input
              type="checkbox"
              checked={!literal}
              disabled={writing}
              onChange={(event) => app.raw.setLiteral(!event.currentTarget.checked)}
            />
            {t('raw.control')}
          </label>
          <FormatChip />
          <Meter />
          <button type="button" onClick={() => app.raw.undo()} disabled={before === null || writing}>
            {t('toast.undo')}
          </button>
          {writing ? (
            <SendOrStop />
          ) : (
            <button type="submit" class="primary" disabled={!ready || text === ''}>
              <Icon name="play" />
              {t('raw.generate')}
            </button>
          )}
        </div>
      </form>
      {failure && (
        <div class="failure" role="alert">
          {failure.kind === 'key' ? (
            <Key onUse={() => void app.raw.generate()} />
          ) : (
            <p>{failure.kind === 'network' ? t('failure.broken') : failure.message}</p>
          )}
          {failure.hint && failure.kind !== 'key' && <p>{failure.hint}</p>}
          <ChangeFormat failure={failure} />
        </div>
      )}
    </main>
  );
}
