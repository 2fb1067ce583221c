import { useEffect, useRef } from 'preact/hooks';

import { useApp, useAppState, useUi, useUiState } from '../context.js';
import { download } from '../clipboard.js';
import { importSettings } from '../files.js';
import { LANGUAGES, t } from '../i18n.js';
import { CHAR_NAME, HISTORY_TEMPLATE, MAX_STOPS, NUMBERS, PROMPT_TEMPLATE, USER_NAME } from '../settings.js';
import { Dialog } from './Dialogs.jsx';
import { Check, Choice, Field, NumberSetting, shortened, TextArea } from './fields.jsx';
import { FormatSettings } from './Format.jsx';
import { Icon } from './icons.jsx';

/** A language is named in itself. */
const ENGLISH = 'English';

/** The settings of the open chat, and of the page. @param {{ field?: string }} props id of the field to begin with */
export function Settings({ field }) {
  const app = useApp();
  // Both decide what the fields show.
  useAppState((state) => state.conversation.settings);
  useAppState((state) => state.defaults);
  const changed = Object.keys(app.state.conversation.settings).length > 0;
  const anyChange = changed || Object.keys(app.state.defaults).length > 0;
  const picker = useRef(/** @type {HTMLInputElement | null} */ (null));
  useEffect(() => {
    if (field) document.getElementById(field)?.focus();
  }, []);
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
        <summary>{t('format.title')}</summary>
        <FormatSettings />
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
          onChange={(event) => {
            const file = event.currentTarget.files?.[0];
            event.currentTarget.value = '';
            if (file) void importSettings(app, file);
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

function SystemPrompt() {
  const app = useApp();
  const { settings } = app;
  const ownPlace = settings.promptTemplate.includes('{{prompt}}');
  return (
    <Field
      name="system"
      id="setting-system"
      label={t('settings.system')}
      fallback={shortened(app.baseSettings.system)}
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
    <Field name="stop" id="setting-stop" label={t('field.stop')} fallback={shortened(app.baseSettings.stop.join(' '))} help={t('field.stopHelp')}>
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
        fallback={template(app.baseSettings.promptTemplate, PROMPT_TEMPLATE)}
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
        fallback={template(app.baseSettings.historyTemplate, HISTORY_TEMPLATE)}
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
    <Field name={name} id={id} label={label} help={t('settings.default', { value: app.baseSettings[name] })}>
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

/** @param {string} text @param {string} trained */
const template = (text, trained) => (text === trained ? t('settings.asTrained') : shortened(text));

function PageSettings() {
  const app = useApp();
  const ui = useUi();
  const preferences = useAppState((state) => state.preferences);
  const theme = useUiState((state) => state.theme);
  const language = useUiState((state) => state.language);
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
      <div class="field">
        <div class="field-head">
          <label for="setting-language">{t('settings.language')}</label>
        </div>
        <select id="setting-language" value={language} onChange={(event) => ui.changeLanguage(event.currentTarget.value)}>
          <option value="auto">{t('settings.languageAuto')}</option>
          <option value="en" lang="en">
            {ENGLISH}
          </option>
          {Object.entries(LANGUAGES).map(([code, { name }]) => (
            <option key={code} value={code} lang={code}>
              {name}
            </option>
          ))}
        </select>
      </div>
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
              ui.changeLanguage('auto');
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
