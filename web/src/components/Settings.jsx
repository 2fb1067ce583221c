import { useEffect, useRef, useState } from 'preact/hooks';

import { useApp, useAppState, useUi, useUiState } from '../context.js';
import { download } from '../clipboard.js';
import { formatNumber, t } from '../i18n.js';
import { CHAR_NAME, clamp, MAX_STOPS, NUMBERS, USER_NAME } from '../settings.js';
import { Icon } from './icons.jsx';
import { Dialog } from './Dialogs.jsx';

/** The settings of the open chat, and of the page. */
export function Settings() {
  const app = useApp();
  // Both decide what the fields show.
  useAppState((state) => state.conversation.settings);
  useAppState((state) => state.defaults);
  const changed = Object.keys(app.state.conversation.settings).length > 0;
  const anyChange = changed || Object.keys(app.state.defaults).length > 0;
  const picker = useRef(/** @type {HTMLInputElement | null} */ (null));
  return (
    <Dialog title={t('settings.title')} class="sheet">
      <SystemPrompt />
      <details class="group" open>
        <summary>{t('settings.sampling')}</summary>
        {NUMBERS.map((field) => (
          <NumberSetting key={field.key} field={field} />
        ))}
        <Stops />
      </details>
      <details class="group" open>
        <summary>{t('settings.templates')}</summary>
        <Templates />
      </details>
      <div class="dialog-row">
        <button type="button" class="small" onClick={() => app.makeDefault()} disabled={!changed}>
          {t('settings.makeDefault')}
        </button>
        <button type="button" class="small" onClick={() => app.resetSettings()} disabled={!anyChange}>
          {t('settings.resetAll')}
        </button>
        <span class="spacer" />
        <button
          type="button"
          class="small"
          onClick={() => download('gemma2-settings.json', `${JSON.stringify(app.settings, null, 2)}\n`, 'application/json')}
        >
          {t('settings.export')}
        </button>
        <button type="button" class="small" onClick={() => picker.current?.click()}>
          {t('settings.import')}
        </button>
        <input
          ref={picker}
          type="file"
          accept=".json,application/json"
          hidden
          onChange={async (event) => {
            const file = event.currentTarget.files?.[0];
            event.currentTarget.value = '';
            if (!file) return;
            try {
              app.notify('toast.settingsImported', { count: app.importSettings(JSON.parse(await file.text())) });
            } catch {
              app.notify('toast.importFailed', { name: file.name, reason: t('import.notJson') });
            }
          }}
        />
      </div>
      <details class="group" open>
        <summary>{t('settings.page')}</summary>
        <PageSettings />
      </details>
    </Dialog>
  );
}

/**
 * A label, a help line, a dot when the field differs from its default, and a button that goes back.
 * @param {{ name: keyof import('../settings.js').Settings, label: string, help?: string, id: string, fallback?: string,
 *   children: import('preact').ComponentChildren, note?: string }} props
 */
function Field({ name, label, help, id, fallback, children, note }) {
  const app = useApp();
  const own = name in app.state.conversation.settings;
  return (
    <div class={`field ${own ? 'changed' : ''}`}>
      <div class="field-head">
        <label for={id}>{label}</label>
        {own && (
          <>
            <span class="dot">
              <span class="visually-hidden">{t('settings.changed')}</span>
            </span>
            <button
              type="button"
              class="link"
              aria-label={t('settings.resetField', { name: label })}
              onClick={() => app.changeSetting(name, app.baseSettings[name])}
            >
              {t('settings.reset')}
            </button>
          </>
        )}
        {fallback !== undefined && <span class="fallback">{t('settings.default', { value: fallback })}</span>}
      </div>
      {children}
      {help && (
        <p class="help" id={`${id}-help`}>
          {help}
        </p>
      )}
      {note && <p class="note">{note}</p>}
    </div>
  );
}

/** @param {import('../settings.js').NumberField} field @param {number} value */
function written(field, value) {
  if (field.key === 'seed' && value < 0) return t('field.random');
  if (field.key === 'maxTokens' && value === 0) return t('field.unlimited');
  const number = formatNumber(value, { maximumFractionDigits: 3, useGrouping: false });
  return field.off === value ? `${number} (${t('field.off')})` : number;
}

/** @param {{ field: import('../settings.js').NumberField }} props */
function NumberSetting({ field }) {
  const app = useApp();
  const { settings, baseSettings } = app;
  const value = /** @type {number} */ (settings[field.key]);
  const [typed, setTyped] = useState(/** @type {string | null} */ (null));
  const id = `setting-${field.key}`;
  const label = t(/** @type {any} */ (`field.${field.key}`));
  const useless = settings.temperature === 0 && field.needsRandomness === true;
  /** @param {string} text */
  const change = (text) => {
    const number = Number(text);
    if (text.trim() !== '' && Number.isFinite(number)) app.changeSetting(field.key, clamp(field, number));
  };
  return (
    <Field
      name={field.key}
      id={id}
      label={label}
      help={t(/** @type {any} */ (`field.${field.key}Help`))}
      fallback={written(field, /** @type {number} */ (baseSettings[field.key]))}
      note={useless ? t('field.greedy') : undefined}
    >
      <div class={`number ${useless ? 'useless' : ''}`}>
        {field.key !== 'seed' && (
          <input
            type="range"
            aria-label={label}
            min={field.min}
            max={field.sliderMax ?? field.max}
            step={field.step}
            value={Math.min(value, field.sliderMax ?? field.max)}
            onInput={(event) => {
              setTyped(null);
              change(event.currentTarget.value);
            }}
          />
        )}
        <input
          id={id}
          type="number"
          inputMode="decimal"
          aria-describedby={`${id}-help`}
          min={field.min}
          max={field.max}
          step={Number.isInteger(field.step) ? field.step : 'any'}
          value={typed ?? String(value)}
          onInput={(event) => {
            setTyped(event.currentTarget.value);
            change(event.currentTarget.value);
          }}
          onBlur={() => setTyped(null)}
        />
      </div>
    </Field>
  );
}

/**
 * A text area that keeps what is typed even where the stored value would be a cleaned form of it.
 * @param {{ id: string, value: string, rows: number, onText: (text: string) => void, placeholder?: string, code?: boolean }} props
 */
function TextArea({ id, value, rows, onText, placeholder, code }) {
  const area = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  useEffect(() => {
    const element = area.current;
    if (element && document.activeElement !== element && element.value !== value) element.value = value;
  }, [value]);
  return (
    <textarea
      id={id}
      ref={area}
      rows={rows}
      dir="auto"
      class={code ? 'code-field' : ''}
      spellcheck={!code}
      defaultValue={value}
      placeholder={placeholder}
      aria-describedby={`${id}-help`}
      onInput={(event) => onText(event.currentTarget.value)}
    />
  );
}

function SystemPrompt() {
  const app = useApp();
  const { settings } = app;
  const ownPlace = settings.promptTemplate.includes('{{prompt}}');
  return (
    <Field
      name="system"
      id="setting-system"
      label={t('settings.system')}
      help={t(ownPlace ? 'settings.systemInTemplate' : 'settings.systemHelp')}
    >
      <TextArea
        id="setting-system"
        rows={3}
        value={settings.system}
        placeholder={t('settings.systemPlaceholder')}
        onText={(text) => app.changeSetting('system', text)}
      />
    </Field>
  );
}

function Stops() {
  const app = useApp();
  return (
    <Field name="stop" id="setting-stop" label={t('field.stop')} help={t('field.stopHelp')}>
      <TextArea
        id="setting-stop"
        rows={2}
        code
        value={app.settings.stop.join('\n')}
        onText={(text) => app.changeSetting('stop', text.split('\n').filter((line) => line !== '').slice(0, MAX_STOPS))}
      />
    </Field>
  );
}

function Templates() {
  const app = useApp();
  const ui = useUi();
  const { settings } = app;
  const braces = { open: '{{', close: '}}' };
  return (
    <>
      <p class="help">{t('settings.templatesHelp')}</p>
      <Field
        name="promptTemplate"
        id="setting-promptTemplate"
        label={t('settings.promptTemplate')}
        help={t('settings.promptTemplateHelp', braces)}
      >
        <TextArea
          id="setting-promptTemplate"
          rows={3}
          code
          value={settings.promptTemplate}
          onText={(text) => app.changeSetting('promptTemplate', text)}
        />
      </Field>
      <Field
        name="historyTemplate"
        id="setting-historyTemplate"
        label={t('settings.historyTemplate')}
        help={t('settings.historyTemplateHelp', braces)}
      >
        <TextArea
          id="setting-historyTemplate"
          rows={2}
          code
          value={settings.historyTemplate}
          onText={(text) => app.changeSetting('historyTemplate', text)}
        />
      </Field>
      <div class="names">
        <NameField name="userName" label={t('settings.userName')} />
        <NameField name="charName" label={t('settings.charName')} />
      </div>
      {(settings.userName !== USER_NAME || settings.charName !== CHAR_NAME) && (
        <p class="note">{t('settings.nameWarning')}</p>
      )}
      <button type="button" onClick={() => ui.open({ name: 'prompt' })}>
        {t('settings.exactPrompt')}
      </button>
    </>
  );
}

/** @param {{ name: 'userName' | 'charName', label: string }} props */
function NameField({ name, label }) {
  const app = useApp();
  const id = `setting-${name}`;
  return (
    <Field name={name} id={id} label={label}>
      <input
        id={id}
        type="text"
        class="code-field"
        spellcheck={false}
        autocomplete="off"
        value={app.settings[name]}
        onInput={(event) => app.changeSetting(name, event.currentTarget.value)}
      />
    </Field>
  );
}

function PageSettings() {
  const app = useApp();
  const ui = useUi();
  const preferences = useAppState((state) => state.preferences);
  const theme = useUiState((state) => state.theme);
  return (
    <>
      <Choice
        label={t('settings.theme')}
        name="theme"
        value={theme}
        options={[
          ['auto', t('settings.themeAuto')],
          ['light', t('settings.themeLight')],
          ['dark', t('settings.themeDark')],
        ]}
        onChange={(value) => ui.changeTheme(/** @type {any} */ (value))}
      />
      <Choice
        label={t('settings.fontSize')}
        name="font"
        value={preferences.fontSize}
        options={[
          ['small', t('settings.fontSmall')],
          ['normal', t('settings.fontNormal')],
          ['large', t('settings.fontLarge')],
        ]}
        onChange={(value) => app.changePreferences({ fontSize: /** @type {any} */ (value) })}
      />
      <Choice
        label={t('settings.sendWith')}
        name="send"
        value={preferences.sendWith}
        options={[
          ['enter', t('settings.sendEnter')],
          ['ctrl', t('settings.sendCtrl')],
        ]}
        onChange={(value) => app.changePreferences({ sendWith: /** @type {any} */ (value) })}
      />
      <Check
        label={t('settings.showSpeed')}
        checked={preferences.showSpeed}
        onChange={(showSpeed) => app.changePreferences({ showSpeed })}
      />
      <Check
        label={t('settings.renderUser')}
        checked={preferences.renderUser}
        onChange={(renderUser) => app.changePreferences({ renderUser })}
      />
      <Choice
        label={t('settings.announce')}
        name="announce"
        value={preferences.announce}
        options={[
          ['done', t('settings.announceDone')],
          ['sentence', t('settings.announceSentence')],
          ['off', t('settings.announceOff')],
        ]}
        onChange={(value) => app.changePreferences({ announce: /** @type {any} */ (value) })}
      />
      <button
        type="button"
        class="danger"
        onClick={() =>
          ui.open({
            name: 'confirm',
            title: t('settings.clearAll'),
            text: t('settings.clearQuestion'),
            yes: t('settings.clearYes'),
            act: () => {
              ui.changeTheme('auto');
              void app.clearAll();
            },
          })
        }
      >
        <Icon name="trash" />
        {t('settings.clearAll')}
      </button>
    </>
  );
}

/** @param {{ label: string, name: string, value: string, options: [string, string][], onChange: (value: string) => void }} props */
function Choice({ label, name, value, options, onChange }) {
  return (
    <fieldset class="choice">
      <legend>{label}</legend>
      <div class="segments">
        {options.map(([option, text]) => (
          <label key={option}>
            <input type="radio" name={name} value={option} checked={value === option} onChange={() => onChange(option)} />
            <span>{text}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}

/** @param {{ label: string, checked: boolean, onChange: (checked: boolean) => void }} props */
function Check({ label, checked, onChange }) {
  return (
    <label class="check">
      <input type="checkbox" checked={checked} onChange={(event) => onChange(event.currentTarget.checked)} />
      {label}
    </label>
  );
}
