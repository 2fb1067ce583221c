import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';

import { copy } from '../clipboard.js';
import { useApp, useAppState, useUi, useUiState } from '../context.js';
import { importFiles, isExport, readTextFiles } from '../files.js';
import { grow } from '../grow.js';
import { t } from '../i18n.js';
import { canGrow, fraction, level } from '../meter.js';
import { busy, composerAction } from '../state.js';
import { FormatChip } from './Format.jsx';
import { Icon, IconButton } from './icons.jsx';

/** Pasting more characters than this offers a file instead. */
const LONG_PASTE = 3000;

export function Composer() {
  const app = useApp();
  const ui = useUi();
  const draft = useAppState((state) => state.draft);
  const files = useAppState((state) => state.files);
  const sendWith = useAppState((state) => state.preferences.sendWith);
  const field = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  const picker = useRef(/** @type {HTMLInputElement | null} */ (null));

  useLayoutEffect(() => {
    grow(field.current);
  }, [draft]);

  /** @param {Iterable<File>} list */
  const attach = async (list) => {
    const { files: read, refused } = await readTextFiles(list);
    if (refused) app.notify(refused.key, refused.values);
    if (read.length > 0) app.drafts.setFiles([...app.state.files, ...read]);
  };

  // Files may be dropped anywhere: exported chats are imported, others attached.
  useEffect(() => {
    // Text that is dragged into a field is the browser's.
    const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes('Files') === true;
    const allow = (/** @type {DragEvent} */ event) => hasFiles(event) && event.preventDefault();
    const drop = async (/** @type {DragEvent} */ event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      const dropped = [...(event.dataTransfer?.files ?? [])];
      /** @type {File[]} */
      const chats = [];
      /** @type {File[]} */
      const others = [];
      for (const file of dropped) ((await isExport(file)) ? chats : others).push(file);
      if (chats.length > 0) await importFiles(app, chats);
      if (others.length > 0) await attach(others);
    };
    document.addEventListener('dragover', allow);
    document.addEventListener('drop', drop);
    return () => {
      document.removeEventListener('dragover', allow);
      document.removeEventListener('drop', drop);
    };
  }, []);

  /** @param {string} text that was just pasted */
  const offerAsFile = (text) => {
    const act = () => {
      app.drafts.set(app.state.draft.replace(text.replace(/\r\n?/g, '\n'), ''));
      app.drafts.setFiles([...app.state.files, { name: t('composer.pastedName'), text }]);
      field.current?.focus();
    };
    app.notify('composer.longPaste', { count: text.length }, { key: 'composer.asFile', act });
  };

  /** @param {KeyboardEvent} event */
  const onKeyDown = (event) => {
    // Enter also ends the composition of a character; some browsers only say so with this code.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === 'Enter' && !event.shiftKey && !event.altKey) {
      const control = event.ctrlKey || event.metaKey;
      if (sendWith === 'enter' ? !control : control) {
        event.preventDefault();
        void app.replies.send();
      }
    }
    const plain = !event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey;
    if (event.key === 'ArrowUp' && plain && app.state.draft === '') {
      const mine = app.messages.path.findLast((message) => message.role === 'user');
      if (mine && !busy(app.state.machine)) {
        event.preventDefault();
        ui.set({ editing: mine.id });
      }
    }
  };

  return (
    <section class="dock" aria-label={t('composer.label')}>
      <Notice />
      <form
        class="composer"
        onSubmit={(event) => {
          event.preventDefault();
          // The button that was pressed goes; what is typed next is a message.
          field.current?.focus();
          void app.replies.send();
        }}
      >
        {files.length > 0 && (
          <ul class="files">
            {files.map((file, at) => (
              <li key={at} class="file">
                <Icon name="clip" />
                <span dir="auto">{file.name}</span>
                {file.tokens !== undefined && <span class="help">{t('info.tokens', { count: file.tokens })}</span>}
                <IconButton
                  icon="close"
                  label={t('composer.removeFile', { name: file.name })}
                  onClick={() => app.drafts.setFiles(files.filter((_, other) => other !== at))}
                />
              </li>
            ))}
          </ul>
        )}
        <textarea
          id="message"
          ref={field}
          rows={1}
          dir="auto"
          value={draft}
          placeholder={t('composer.placeholder')}
          aria-label={t('composer.label')}
          aria-describedby="composer-hint"
          autocomplete="off"
          onInput={(event) => app.drafts.set(event.currentTarget.value)}
          onKeyDown={onKeyDown}
          onPaste={(event) => {
            const pasted = [...(event.clipboardData?.files ?? [])];
            const text = event.clipboardData?.getData('text/plain') ?? '';
            // Cells of a spreadsheet come as text with a picture of them.
            const pictured = text !== '' && pasted.every(({ type }) => type.startsWith('image/'));
            if (pasted.length > 0 && !pictured) {
              event.preventDefault();
              void attach(pasted);
              return;
            }
            if (text.length > LONG_PASTE) offerAsFile(text);
          }}
        />
        <div class="composer-row">
          <input
            ref={picker}
            type="file"
            multiple
            hidden
            onChange={(event) => {
              // A copy: clearing the field empties its list.
              void attach([...(event.currentTarget.files ?? [])]);
              event.currentTarget.value = '';
            }}
          />
          <IconButton icon="clip" label={t('composer.attach')} onClick={() => picker.current?.click()} />
          <FormatChip />
          <Meter />
          <SendOrStop />
        </div>
      </form>
      <p class="visually-hidden" id="composer-hint">
        {t(sendWith === 'enter' ? 'composer.hintEnter' : 'composer.hintCtrl')}
      </p>
    </section>
  );
}

/** What the running reply is doing, and that a message waits. */
function Notice() {
  const app = useApp();
  const turns = useAppState((state) => state.tree.size > 1);
  const queued = useAppState((state) => state.machine.queued);
  const elsewhere = useAppState((state) => state.live !== null && state.live.conversation !== state.conversation.id);
  const meter = useAppState((state) => state.meter);
  const typed = useAppState((state) => state.draft.trim() !== '' || state.files.length > 0);
  const tooLong = typed && level(meter) === 'full';
  if (queued) return <p class="notice">{t('composer.queued')}</p>;
  if (tooLong) {
    return (
      <p class="notice warn">
        {t('composer.tooLong', { used: meter.used ?? 0, total: meter.total })}
        {turns && (
          <>
            <button type="button" class="small" onClick={() => void app.prompts.leaveOutOldest(true)}>
              {t('full.leaveOut')}
            </button>
            <button type="button" class="small" onClick={() => app.prompts.newChatWithLastAnswer()}>
              {t('full.newChat')}
            </button>
          </>
        )}
        {canGrow(meter) && <Restart />}
      </p>
    );
  }
  if (elsewhere) return <p class="notice">{t('composer.elsewhere')}</p>;
  return null;
}

/** The round button: send, wait, or stop. */
export function SendOrStop() {
  const app = useApp();
  const action = useAppState((state) => (state.started ? composerAction(state.machine) : 'none'));
  const empty = useAppState((state) => state.draft.trim() === '' && state.files.length === 0);
  if (action === 'stop' || action === 'unqueue') {
    return (
      <button
        key="stop"
        type="button"
        class="send stop"
        aria-label={t(action === 'stop' ? 'composer.stop' : 'composer.unqueue')}
        title={t(action === 'stop' ? 'composer.stop' : 'composer.unqueue')}
        onClick={() => {
          app.replies.stop();
          document.getElementById('message')?.focus();
        }}
      >
        <span class="stop-mark" />
      </button>
    );
  }
  const label = t(action === 'queue' ? 'composer.queue' : 'composer.send');
  return (
    <button key="send" type="submit" class="send" aria-label={label} title={label} disabled={empty || action === 'none'}>
      <Icon name="send" />
    </button>
  );
}

/** How full the context is, in the server's own count. */
export function Meter() {
  const ui = useUi();
  const meter = useAppState((state) => state.meter);
  const open = useUiState((state) => state.dialog?.name === 'prompt');
  const filled = useRef(/** @type {HTMLSpanElement | null} */ (null));
  const part = fraction(meter);
  useEffect(() => {
    filled.current?.style.setProperty('inline-size', `${part * 100}%`);
  }, [part, meter.total]);
  if (meter.total === 0) return <span class="meter" />;
  const text =
    meter.used === null
      ? t('meter.unknown', { total: meter.total })
      : t('meter.text', { used: meter.used, total: meter.total });
  // The button stands where the language wants it.
  const [before, after] = t('meter.grow', { flag: '\n', max: meter.max }).split('\n');
  return (
    <span class={`meter ${level(meter)}`}>
      <button
        type="button"
        class="meter-button"
        aria-expanded={open}
        title={t('meter.title', { used: meter.used ?? 0, total: meter.total })}
        onClick={() => ui.open({ name: 'prompt' })}
      >
        <span class="meter-bar">
          <span class="meter-fill" ref={filled} />
        </span>
        <span class="meter-text">
          <span class="visually-hidden">{t('meter.label')} </span>
          <span class="meter-long">{text}</span>
          {meter.used !== null && <span class="meter-short">{t('meter.short', { used: meter.used, total: meter.total })}</span>}
        </span>
      </button>
      {canGrow(meter) && (
        <span class="meter-grow">
          <span>{before}</span>
          <CopyFlag />
          <span>{after}</span>
        </span>
      )}
    </span>
  );
}

/** More context is a restart away. */
export function Restart() {
  const max = useAppState((state) => state.meter.max);
  return (
    <span class="restart">
      {t('full.restart', { max })} <CopyFlag />
    </span>
  );
}

/** The flag that gives the model all the context it can use. */
function CopyFlag() {
  const app = useApp();
  const max = useAppState((state) => state.meter.max);
  return (
    <button
      type="button"
      class="flag"
      title={t('meter.copyFlag', { max })}
      onClick={async () => {
        app.notify((await copy('-c 0')) ? 'toast.copied' : 'toast.copyFailed');
      }}
    >
      <code>-c 0</code> <Icon name="copy" />
    </button>
  );
}
